"""Certificates of DeepLIFT's multipliers: at every call Σ m_in ⊙ Δx = Σ m ⊙ Δy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import sympy
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.claims.adjoints import CONVOLUTIONS, convolutions
from agf_fx.inspect.certificates.laws import Cases, Quotient, equals, example_on, transposed
from agf_fx.inspect.certificates.layers import Case, Constant, call, case, messages
from agf_fx.inspect.certificates.numbers import Number, logs, number, symbols, total
from agf_fx.rules.rule import Promise, Rule

aten = torch.ops.aten

SUMMED = r"\sum_i m^{\mathrm{in}}_i \Delta x_i = \sum_j m_j \Delta y_j"
NEAR = 1e-5


def _compared(about: str, target: Callable[..., Any], now: Any, before: Any, *options: Any) -> Case:
    """A call on images and on a baseline; operands that are the same object are constants of both."""
    now, before = (value if isinstance(value, tuple) else (value,) for value in (now, before))
    site = call(target, *now, *options, reference=(*before, *options))
    return case(about, site, "m")


KEPT = "conserves: the sum of multipliers times differences is kept"


def differences_sum(cases: Cases, layer: str, says: str = KEPT) -> Claim:
    """Σ m_in Δx - Σ m Δy, over signals."""

    def residuals(rule: Rule) -> Iterator[Number]:
        for each in cases():
            found, site = messages(rule, each), each.site
            dy = site.y.entries - site.reference.y.entries
            operands = zip(found, site.operands, site.reference.operands, site.are_signals, strict=True)
            steps = [(part, x.entries - x_0.entries) for part, x, x_0, varies in operands if varies]
            for target, m in enumerate(each.message):
                handed = total(total((part[target] * step).flat) for part, step in steps)
                yield handed - total((m * dy).flat)

    return Claim(says, layer, residuals, SUMMED, Promise.CONSERVES, example_on(cases))


# Functions of every entry


def entry_by_entry(cases: Cases, layer: str, where: str = "") -> Claim:
    """m_in Δx - m Δy, at every entry."""

    def residuals(rule: Rule) -> Iterator[Number]:
        for each in cases():
            (found,), site = messages(rule, each), each.site
            dx, dy = site.x.entries - site.reference.x.entries, site.y.entries - site.reference.y.entries
            yield from (found * dx - each.message * dy).flat

    latex = r"m^{\mathrm{in}}_i \Delta x_i = m_i \Delta y_i"
    return Claim(
        f"conserves: multipliers times differences are kept at every entry{where}",
        layer,
        residuals,
        latex,
        Promise.CONSERVES,
        example_on(cases),
    )


def _pairs(*targets: Callable[..., Any], now: tuple = (2, -2, 5), before: tuple = (-1, 4, 1)) -> Cases:
    @functools.cache
    def cases() -> tuple[Case, ...]:
        x, x_0 = symbols("x", [now]), symbols("u", [before])
        return tuple(_compared(target._schema.name, target, x, x_0) for target in targets)

    return cases


@functools.cache
def _unmoved() -> tuple[Case, ...]:
    x = symbols("x", [[2, -3]])
    return (_compared("no difference", aten.relu.default, x, x),)


def rescale(rule: Rule) -> tuple[Claim, ...]:
    """Δy / Δx."""
    cases = _pairs(aten.relu.default, aten.abs.default, aten.exp.default)
    return (
        entry_by_entry(cases, "relu, abs and exp of 3 entries, across 0 and not"),
        transposed(_unmoved, "ReLU of 2 entries", "the derivative where Δx = 0"),
    )


def _beside(x: float, step: float) -> Cases:
    """exp of one entry, and of one a step away."""

    @functools.cache
    def cases() -> tuple[Case, ...]:
        before, moved = symbols("x", [[x]]), symbols("d", [[step]])
        return (_compared("near", aten.exp.default, before + moved, before),)

    return cases


def _mean_slope(x: float = 2, step: float = NEAR) -> tuple[Claim, ...]:
    """Where x and x₀ are near: the mean of both derivatives, whose error is of third order."""

    def formula(case: Case, m: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        return [m * (case.site.y.entries + case.site.reference.y.entries) * number(0.5)]

    def error(rule: Rule) -> Iterator[Number]:
        """Δx (f'(x + Δx) + f'(x)) / 2 - Δy = f''' Δx³ / 12 + O(Δx⁴), for any smooth f, by its Taylor series."""
        step, terms = sympy.Symbol("d"), sympy.symbols("f:5")
        f = sum(term * step**k / sympy.factorial(k) for k, term in enumerate(terms))
        found = sympy.expand(step * (f.diff(step) + terms[1]) / 2 - (f - terms[0]))
        for power in range(4):
            yield Number(found.coeff(step, power) - (terms[3] / 12 if power == 3 else 0), 0.0)

    latex = r"m^{\mathrm{in}} = m \frac{f'(x) + f'(x_0)}{2}"
    says = "where x and x₀ are near, the mean of both derivatives"
    return (
        equals(_beside(x, step), "exp of an entry, near", formula, says, latex),
        Claim(
            "which misses the sum by f''' Δx³ / 12 and no more, of third order",
            "any smooth function, by its Taylor series",
            error,
            r"\Delta x \tfrac{f'(x) + f'(x_0)}{2} - \Delta y = \tfrac{1}{12} f'''(x)\, \Delta x^3 + O(\Delta x^4)",
        ),
    )


def rescale_smooth(rule: Rule) -> tuple[Claim, ...]:
    """Δy / Δx, away from Δx = 0."""
    cases = _pairs(aten.sigmoid.default, aten.tanh.default, aten.exp.default)
    return (entry_by_entry(cases, "sigmoid, tanh and exp of 3 entries", ", where |Δx| > 1e-4"), *_mean_slope())


def rescale_beside_0(rule: Rule) -> tuple[Claim, ...]:
    """Likewise."""
    cases = _pairs(aten.log.default, aten.reciprocal.default, aten.rsqrt.default, now=(2, 3), before=(5, 1))
    where = ", where |Δx| > 1e-4 (|x| + |x₀|)"
    far = entry_by_entry(_beside(-2, 5e-4), "exp of an entry 5e-4 away", where)
    return (entry_by_entry(cases, "log, 1 / x and 1 / √x of 2 entries", where), far, *_mean_slope(-2, 3e-4))


def rescale_beside_3(rule: Rule) -> tuple[Claim, ...]:
    """Likewise."""
    cases = _pairs(aten.relu.default, aten.exp.default)
    corner = entry_by_entry(_beside(-3 + 2e-5, NEAR), "exp of an entry beside -3", ", beside 3 and -3")
    return (entry_by_entry(cases, "relu and exp of 3 entries", ", where |Δx| > 1e-4"), corner, *_mean_slope())


def square_root(rule: Rule) -> tuple[Claim, ...]:
    """1 / (√x + √x₀)."""
    cases = _pairs(aten.sqrt.default, now=(2, 3), before=(5, 1))

    def unchanged(case: Case, m: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        return [m]

    @functools.cache
    def at_0() -> tuple[Case, ...]:
        zero = np.array([[number(0)]])
        return (_compared("0 and 0", aten.sqrt.default, zero, zero),)

    latex = r"m^{\mathrm{in}} = m"
    return (
        entry_by_entry(cases, "√ of 2 entries"),
        equals(at_0, "√ of 0, on a baseline of 0", unchanged, "m itself where √x + √x₀ is 0", latex),
    )


def linear(rule: Rule) -> tuple[Claim, ...]:
    """The adjoint."""

    @functools.cache
    def cases() -> tuple[Case, ...]:
        x, x_0 = symbols("x", [[2, 3]]), symbols("u", [[-1, 4]])
        weight, bias = Constant(symbols("W", [[3, -1], [-2, 5]])), Constant(symbols("b", [0.5, 1]))
        maps, maps_0 = symbols("x", [[[2, -3, 5]]]), symbols("u", [[[1, 4, -2]]])
        kernel = Constant(symbols("W", [[[3, -1]]]))
        return (
            _compared("linear", aten.linear.default, x, x_0, weight, bias),
            _compared("conv1d", aten.conv1d.default, maps, maps_0, kernel, None, [1], [1], [1], 1),
            _compared("mean", aten.mean.dim, maps, maps_0, [2]),
            _compared("sum of two signals", aten.add.Tensor, (x, x_0), (x_0, x)),
        )

    layer = "linear layer with a bias, convolution, mean, sum of 2 to 3 entries"
    return (
        differences_sum(cases, layer),
        transposed(convolutions, CONVOLUTIONS, "the adjoint, by sympy's derivatives"),
    )


# What mixes entries


def _one_layer(layer: str, made: Callable[[], Iterable[Case]]) -> Callable[[Rule], tuple[Claim, ...]]:
    cases = functools.cache(lambda: tuple(made()))

    @functools.cache
    def unmoved() -> tuple[Case, ...]:
        """The same with the images for a baseline."""
        sites = [replace(each.site, reference=replace(each.site, reference=None)) for each in cases()]
        return tuple(replace(each, site=site) for each, site in zip(cases(), sites, strict=True))

    def claims(rule: Rule) -> tuple[Claim, ...]:
        at_rest = transposed(unmoved, layer, "where nothing differs from the baseline, the derivative")
        return (differences_sum(cases, layer), at_rest)

    return claims


def _maxima() -> Iterable[Case]:
    for about, now, before in (
        ("the largest stays", (2, 5), (1, 3)),
        ("the largest changes, and rises", (2, 5), (3, 1)),
        ("the largest changes, and falls", (2, 1), (3, 5)),
    ):
        yield _compared(about, aten.amax.default, symbols("x", [now]), symbols("u", [before]), [1])


def _two(target: Callable[..., Any], now: tuple = ((2, -3), (5, 1)), before: tuple = ((-1, 4), (3, 2))) -> Case:
    a, b = (symbols(name, [row]) for name, row in zip("ab", now, strict=True))
    a_0, b_0 = (symbols(name, [row]) for name, row in zip("uv", before, strict=True))
    return _compared(target._schema.name, target, (a, b), (a_0, b_0))


def _products() -> Iterable[Case]:
    yield _two(aten.mul.Tensor)
    a, b = symbols("a", [[[2, -3]]]), symbols("b", [[[1], [-2]]])
    a_0, b_0 = symbols("u", [[[1, 4]]]), symbols("v", [[[3], [2]]])
    yield _compared("matrices", aten.matmul.default, (a, b), (a_0, b_0))


def _over_dimension(target: Callable[..., Any], *options: Any, exponentials: bool = False) -> Callable[[], Iterable]:
    def made() -> Iterable[Case]:
        x, x_0 = symbols("x", [[2, 3, 0.5]]), symbols("u", [[1, 5, 2]])
        if exponentials:
            x, x_0 = logs(x), logs(x_0)
        yield _compared(target._schema.name, target, x, x_0, *options)

    return made


def _norm(target: Callable[..., Any]) -> Callable[[], Iterable[Case]]:
    def made() -> Iterable[Case]:
        eps = symbols("eta", [0.5])[0]
        if target is aten.group_norm.default:
            x, x_0 = symbols("x", [[[2, -3]]]), symbols("u", [[[1, 4]]])
            yield _compared("one group", target, x, x_0, 1, Constant(symbols("gamma", [3])), None, eps, True)
            return
        x, x_0, gamma = symbols("x", [[2, -3]]), symbols("u", [[1, 4]]), Constant(symbols("gamma", [3, -2]))
        options = (eps,) if target is aten.rms_norm.default else (None, eps, True)
        yield _compared(target._schema.name, target, x, x_0, [2], gamma, *options)

    return made


CLAIMS: dict[str, Callable[[Rule], tuple[Claim, ...]]] = {
    f"agf_fx.rules.deeplift:{name}": claims
    for name, claims in {
        "rescale": rescale,
        "rescale_smooth": rescale_smooth,
        "rescale_beside_0": rescale_beside_0,
        "rescale_beside_3": rescale_beside_3,
        "square_root": square_root,
        "maximum": _one_layer("maximum of 2 entries, which stays, changes, rises and falls", _maxima),
        "product": _one_layer("product of two signals of 2 entries, and of matrices", _products),
        "quotient": _one_layer("quotient of two signals of 2 entries", lambda: [_two(aten.div.Tensor)]),
        "jointly": _one_layer("√(a² + b²) of 2 entries", lambda: [_two(aten.hypot.default)]),
        "length": _one_layer("length of 3 entries", _over_dimension(aten.linalg_vector_norm.default, 2, [1])),
        "layer_norm": _one_layer("layer norm of 2 entries", _norm(aten.layer_norm.default)),
        "group_norm": _one_layer("group norm of 2 entries", _norm(aten.group_norm.default)),
        "rms_norm": _one_layer("RMS norm of 2 entries", _norm(aten.rms_norm.default)),
        "softmax": _one_layer("softmax of 3 scores", _over_dimension(aten.softmax.int, 1, None, exponentials=True)),
        "log_softmax": _one_layer(
            "log-softmax of 3 scores", _over_dimension(aten.log_softmax.int, 1, None, exponentials=True)
        ),
        "log_sum_exp": _one_layer(
            "log Σ exp of 3 scores", _over_dimension(aten.logsumexp.default, [1], exponentials=True)
        ),
    }.items()
} | {"agf_fx.rules.gradients:vjp m": linear}
