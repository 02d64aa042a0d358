"""Claims that many rules make: what becomes of the sum, and that the code computes a formula that is written anew."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import sympy

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.layers import EPSILON, Case, messages, stabilised
from agf_fx.inspect.certificates.numbers import Number, number, sign, symbols, total
from agf_fx.inspect.certificates.symbolic import expressions
from agf_fx.rules.numerics import EXACT, Division
from agf_fx.rules.rule import Promise, Rule

Cases = Callable[[], Iterable[Case]]
Quotient = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(Φ, z) -> Φ / z, as a division has it."""

Formula = Callable[[Case, np.ndarray, Quotient], Sequence[np.ndarray | None]]
"""(case, Φ of one target, (1, *y), quotient) -> what each operand gets."""

SUM_IN, SUM = r"\sum_i \Phi^{\mathrm{in}}_i", r"\sum_j \Phi_j"
CONSERVED = rf"{SUM_IN} = {SUM}"


def nonzero(a: np.ndarray) -> np.ndarray:
    """1 where a ≠ 0, else 0."""
    return np.frompyfunc(lambda n: number(int(bool(n))), 1, 1)(a)


def positive(a: np.ndarray) -> np.ndarray:
    """max(a, 0)."""
    return np.frompyfunc(lambda n: n if sign(n) > 0 else number(0), 1, 1)(a)


def negative(a: np.ndarray) -> np.ndarray:
    """min(a, 0)."""
    return -positive(-a)


def quotient(division: Division) -> Quotient:
    """How a division divides. In the exact one, what falls on z = 0 goes to the other outputs in equal parts."""

    def exact(phi: np.ndarray, z: np.ndarray) -> np.ndarray:
        mask = nonzero(z)
        lost, count = total((phi * (number(1) - mask)).flat), total(mask.flat)
        spread = phi + (lost / count if count else number(0))
        return np.frompyfunc(lambda p, d: p / d if d else number(0), 2, 1)(spread, z)

    def one_sided(phi: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.frompyfunc(lambda p, d: p / (d + EPSILON) if d else number(0), 2, 1)(phi, z)

    def signed(phi: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.frompyfunc(lambda p, d: p / (d + EPSILON if sign(d) >= 0 else d - EPSILON), 2, 1)(phi, z)

    return {"exact": exact, "one-sided": one_sided, "signed": signed}[division.kind]


def handed_on(found: Sequence[np.ndarray | None], target: int) -> Number:
    """The sum of what a rule hands on, of one target."""
    return total(entry for part in found if part is not None for entry in part[target].flat)


Lost = Callable[[Case, np.ndarray, Quotient], Number]
"""(case, Φ of one target, quotient) -> what is lost of the sum."""


def sums(
    promise: Promise, cases: Cases, layer: str, lost: Lost | None = None, says: str = "", latex: str = CONSERVED
) -> Claim:
    """The sum of what is handed on is that of the message, but for ``lost``; divisions are exact.

    Args:
        promise: which promise of a rule that proves.
        cases: where.
        layer: that in words.
        lost: what may be lost; nothing, if not given.
        says: what is added to the words of the promise.
        latex: the law.
    """

    def residuals(rule: Rule) -> Iterator[Number]:
        for case in cases():
            found = messages(rule, case)
            for target, phi in enumerate(case.message):
                missing = number(0) if lost is None else lost(case, phi, quotient(EXACT))
                yield to_signals(case, found, target) + missing - total(phi.flat)

    return Claim(f"{promise}{says}", layer, residuals, latex, promise, example_on(cases))


def equals(
    cases: Cases, layer: str, formula: Formula, says: str, latex: str = "", *, with_epsilon: bool = True
) -> Claim:
    """The code computes a formula, entry by entry: in exact division, and with the stabiliser ε for a symbol."""

    def residuals(rule: Rule) -> Iterator[Number]:
        divisions = {EXACT, stabilised(rule)} if rule.divides and with_epsilon else {EXACT}
        for division in sorted(divisions, key=lambda division: division.kind):
            for case in cases():
                found = messages(rule, case, division)
                for target, phi in enumerate(case.message):
                    wanted = formula(case, phi, quotient(division))
                    yield from differences(found, wanted, target)

    return Claim(says, layer, residuals, latex, example=example_on(cases))


def differences(
    found: Sequence[np.ndarray | None], wanted: Sequence[np.ndarray | None], target: int
) -> Iterator[Number]:
    """Of what is handed on and what is wanted, entry by entry; 1 where one is there and the other is not."""
    if len(found) != len(wanted):
        yield number(1)
    for part, formula in zip(found, wanted, strict=False):
        if part is None or formula is None:
            yield number(int(part is not formula))
            continue
        if part[target].shape != np.shape(formula):
            yield number(1)
            continue
        yield from (part[target] - formula).flat


def scale_free(cases: Cases, layer: str, rescaled: Callable[[Case, np.ndarray], Case], signs: Sequence[int]) -> Claim:
    """Outputs may be scaled, as by a batch norm that is folded into the layer; messages stay.

    Args:
        cases: the cases.
        layer: in words.
        rescaled: (case, scales of the outputs) -> the case of the layer with scaled weights.
        signs: of the scales.
    """

    def residuals(rule: Rule) -> Iterator[Number]:
        for case in cases():
            scale = symbols("s", [sign * size for sign, size in zip(signs, (3, 7), strict=True)])
            found, scaled = messages(rule, case), messages(rule, rescaled(case, scale))
            for target in range(len(case.message)):
                yield from differences(scaled, [part if part is None else part[target] for part in found], target)

    which = "of any sign" if min(signs) < 0 else "above 0"
    says = f"invariant under batch-norm folding: a scale {which} of an output's weights changes nothing"
    return Claim(says, layer, residuals, r"\Phi^{\mathrm{in}}(\operatorname{diag}(s) W) = \Phi^{\mathrm{in}}(W)")


def example_on(cases: Cases) -> Callable[[Rule], str]:
    """A function of a rule: what its code computes on the first of the cases, as LaTeX."""
    return lambda rule: formula_of(rule, next(iter(cases())))


def formula_of(rule: Rule, case: Case) -> str:
    """What the rule's code computes for the first entry of its first operand that is not 0, as LaTeX."""
    found = next(part for part in messages(rule, case) if part is not None)[0]
    entry = next((entry for entry in found.flat if entry.expression), found.flat[0])
    left = {"Φ": r"\Phi^{\mathrm{in}}_1", "∇": r"\nabla x_1", "m": r"m^{\mathrm{in}}_1"}.get(rule.symbol, rule.symbol)
    return f"{left} = {sympy.latex(entry.expression)}"


def jacobian(case: Case, message: np.ndarray) -> list[np.ndarray | None]:
    """What the transposed Jacobian makes of a message (1, *y): the derivatives by sympy. None for constants."""
    y = expressions(case.site.y)
    found: list[np.ndarray | None] = []
    for operand, varies in zip(case.site.operands, case.site.are_signals, strict=True):
        found.append(np.frompyfunc(functools.partial(_pulled_back, y, list(message.flat)), 1, 1)(operand.entries))
        if not varies:
            found[-1] = None
    return found


def _pulled_back(y: list[sympy.Expr], message: list[Number], x: Number) -> Number:
    """Σ_j m_j ∂y_j/∂x, for an x that is a symbol or a function of one; not a number for an x that is 0."""
    if not x.expression.free_symbols:
        return Number(sympy.nan, math.nan)
    (symbol,) = x.expression.free_symbols
    step = x.expression.diff(symbol)
    slopes = [each.diff(symbol) / step for each in y]
    return total(Number(slope, math.nan) * m for slope, m in zip(slopes, message, strict=True))


def transposed(cases: Cases, layer: str, says: str = "the transposed Jacobian, by sympy's derivatives") -> Claim:
    """A message is handed on by the transposed Jacobian of the call; constants are not asked."""

    def residuals(rule: Rule) -> Iterator[Number]:
        for case in cases():
            found = messages(rule, case)
            varies = case.site.are_signals
            for target, part in enumerate(case.message):
                wanted = jacobian(case, part)
                asked = [a if signal else None for a, signal in zip(found, varies, strict=True)]
                yield from differences(asked, wanted, target)

    return Claim(
        says,
        layer,
        residuals,
        r"\nabla x_i = \sum_j \frac{\partial y_j}{\partial x_i} \nabla y_j",
        None,
        example_on(cases),
    )


def to_signals(case: Case, found: Sequence[np.ndarray | None], target: int) -> Number:
    """What signals get of a target; what constants get is lost."""
    pairs = zip(found, case.site.are_signals, strict=True)
    return handed_on([part if signal else None for part, signal in pairs], target)


def of_constants(case: Case, phi: np.ndarray) -> Number:
    """What of a message falls on entries of the output that no signal made."""
    signals = zip(case.site.operands, case.site.are_signals, strict=True)
    symbols_of_signals = {s for a, signal in signals if signal for e in expressions(a) for s in e.free_symbols}
    pairs = zip(expressions(case.site.y), phi.flat, strict=True)
    return total(part for y, part in pairs if not y.free_symbols & symbols_of_signals)
