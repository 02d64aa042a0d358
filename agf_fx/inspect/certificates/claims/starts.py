"""Certificates of what streams start with, and of what becomes of several messages that meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import sympy
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.layers import EPSILON
from agf_fx.inspect.certificates.numbers import Number, number, symbols, total
from agf_fx.inspect.certificates.symbolic import Symbolic
from agf_fx.rules.merging import Merge
from agf_fx.rules.numerics import EXACT, Division

LOGITS = "3 logits, each of them the target once"
_VALUES = (1, 2.5, -0.75)


def _logits() -> np.ndarray:
    return symbols("y", [_VALUES])


def started(seed: Callable[..., Any]) -> np.ndarray:
    """What a stream starts with, for each of the classes: (3, 1, 3)."""
    return seed(Symbolic(_logits()), Symbolic([[0], [1], [2]])).entries


def _probabilities() -> np.ndarray:
    return torch.softmax(Symbolic(_logits()), 1).entries[0]


def _derivatives(function: sympy.Expr) -> list[Number]:
    return [Number(function.diff(y.expression), float("nan")) for y in _logits().flat]


def seed(
    wanted: Callable[[int], Sequence[Any]], says: str, latex: str, *more: Claim
) -> Callable[[Any], tuple[Claim, ...]]:
    """The claim that a stream starts so, for each target."""

    def residuals(subject: Any) -> Iterator[Number]:
        found = started(subject)
        for target in range(3):
            yield from (found[target, 0] - np.array([number(value) for value in wanted(target)], dtype=object))

    return lambda subject: (Claim(says, LOGITS, residuals, latex), *more)


def _at(target: int, value: Any, other: Any = 0) -> list[Any]:
    return [value if place == target else other for place in range(3)]


def _adds_up_to(what: Callable[[int], Number], says: str, latex: str) -> Claim:
    def residuals(subject: Any) -> Iterator[Number]:
        found = started(subject)
        for target in range(3):
            yield total(found[target].flat) - what(target)

    return Claim(says, LOGITS, residuals, latex)


def _target_slope(target: int) -> list[Any]:
    slope = _derivatives(_probabilities()[target].expression)[target]
    return _at(target, slope + number(1e-8))


def _other_slopes(target: int) -> list[Any]:
    slopes = _derivatives(_probabilities()[target].expression)
    return [number(0) if place == target else -slope for place, slope in enumerate(slopes)]


def _others_balance() -> Claim:
    def what(target: int) -> Number:
        p = _probabilities()[target]
        return p * (number(1) - p)

    says = "sums to the slope of the target's probability, so that the two streams of SGLRP balance but for 1e-8"
    return _adds_up_to(what, says, r"\sum_k p_t p_k = p_t (1 - p_t)")


def _softened(target: int) -> list[Any]:
    """∂ŷ_t/∂y by sympy, where one logit alone is the farthest from the target's."""
    y = _logits()[0]
    widest = max(range(3), key=lambda place: abs(y[place].value - y[target].value))
    sigma = abs(y[widest] - y[target]).expression
    scores = [y[target].expression * sympy.exp(-(((each - y[target]).expression / sigma) ** 2) / 2) for each in y]
    powers = [sympy.exp(score) for score in scores]
    return _derivatives(powers[target] / sum(powers))


def _probability_gradient(target: int) -> list[Any]:
    return _derivatives(_probabilities()[target].expression)


# Messages that meet


def merge(scaled: bool) -> Callable[[Merge], tuple[Claim, ...]]:
    """The sum, or with ``scaled`` that times x / (x + ε)."""
    layer = "3 messages at 3 entries, of which one is 0"

    def met(subject: Merge, division: Division) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        x = symbols("x", [[2, -3, 0]])
        given = [symbols(name, [[values]]) for name, values in (("A", (2, -3, 5)), ("B", (1, 4, -2)), ("C", (3, 1, 7)))]
        found = subject.divided(division)(Symbolic(x), [*map(Symbolic, given), None], [-1])
        return x, found.entries, given

    def summed(subject: Merge) -> Iterator[Number]:
        _, found, given = met(subject, EXACT)
        yield total(found.flat) - total(sum(given).flat)

    def formula(subject: Merge) -> Iterator[Number]:
        x, found, given = met(subject, Division("one-sided", EPSILON))
        wanted = sum(given)
        if scaled:
            wanted = wanted * np.array([each / (each + EPSILON) if each else number(0) for each in x.flat])
        yield from (found - wanted).flat

    what = "times x / (x + ε), and 0 where the value is 0" if scaled else "entry by entry"
    latex = r"\Phi = \frac{x}{x + \varepsilon} \sum_k \Phi_k" if scaled else r"\Phi = \sum_k \Phi_k"
    return lambda subject: (
        Claim(
            "conserves, in exact division: the sum of all messages is kept",
            layer,
            summed,
            r"\sum \Phi = \sum_k \sum \Phi_k",
        ),
        Claim(f"messages add, {what}", layer, formula, latex),
    )


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.methods.gradient:target_indicator": seed(
        lambda t: _at(t, 1), "the gradient of the target's logit", r"\partial y_t / \partial y_k = \delta_{tk}"
    ),
    "agf_fx.methods.lrp:target_logit": seed(
        lambda t: _at(t, _logits()[0, t]), "the target's logit, and nothing else", r"\Phi_k = \delta_{tk}\, y_t"
    ),
    "agf_fx.methods.contrast:other_classes": seed(
        lambda t: _at(t, 0, _logits()[0, t] / 2),
        "the target's logit in equal parts at all other classes",
        r"\Phi_k = (1 - \delta_{tk})\, y_t / (n - 1)",
        _adds_up_to(
            lambda t: _logits()[0, t],
            "sums to the target's logit, as the other stream of CLRP does",
            r"\sum_k \Phi_k = y_t",
        ),
    ),
    "agf_fx.methods.contrast:target_slope": seed(
        _target_slope,
        "the derivative of the target's probability at its logit, by sympy, and 1e-8",
        r"\Phi_t = \partial p_t / \partial y_t + 10^{-8}",
    ),
    "agf_fx.methods.contrast:other_slopes": seed(
        _other_slopes,
        "minus the derivatives of the target's probability at the other logits, by sympy",
        r"\Phi_k = -\partial p_t / \partial y_k,\ k \neq t",
        _others_balance(),
    ),
    "agf_fx.rules.agf:softened_target_gradient": seed(
        _softened,
        "the derivative of the softened target, through y_t and σ too, by sympy",
        r"\partial \hat y_t / \partial y_k,\quad \hat y = \operatorname{softmax}(y_t e^{-((y - y_t) / \sigma)^2 / 2})",
    ),
    "agf_fx.methods.meaningful_perturbation:probability_gradient": seed(
        _probability_gradient, "the derivative of the target's probability, by sympy", r"\partial p_t / \partial y_k"
    ),
    "agf_fx.rules.merging:_sum": merge(scaled=False),
    "agf_fx.rules.merging:_shared": merge(scaled=True),
}
