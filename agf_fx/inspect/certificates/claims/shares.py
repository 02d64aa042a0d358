"""Certificates of sums, averages and maxima."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.claims.signals import pair
from agf_fx.inspect.certificates.laws import Formula, Quotient, differences, equals, jacobian, quotient, sums
from agf_fx.inspect.certificates.layers import EPSILON, Case, call, case, messages
from agf_fx.inspect.certificates.numbers import Number, number, symbols
from agf_fx.rules.numerics import Division
from agf_fx.rules.rule import Promise, Rule

aten = torch.ops.aten
Messages = list[np.ndarray | None]


@functools.cache
def _shared() -> tuple[Case, ...]:
    a, b = pair((2, -3, 0), (5, 1, 0))
    x = symbols("x", [[2, -3, 5]])
    return (
        case("a sum, and one of 0 and 0", call(aten.add.Tensor, a, b)),
        case("a difference", call(aten.sub.Tensor, a, b)),
        case("a sum over entries", call(aten.sum.dim_IntList, symbols("x", [[[2, -3], [5, 1]]]), [2])),
        case("a mean", call(aten.mean.dim, x, [1])),
        case("ReLU", call(aten.relu.default, x)),
        case("a maximum", call(aten.amax.default, x, [1])),
        case("a length", call(aten.linalg_vector_norm.default, x, 2, [1])),
    )


SHARED = "sum and difference of two signals, sum, mean, maximum, length and ReLU of 2 to 4 entries"


def proportional(rule: Rule) -> tuple[Claim, ...]:
    """x ⊙ fᵀ(Φ / f(x)), for f homogeneous of degree 1."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        pulled = jacobian(case, over(phi, case.site.y.entries))
        return [x.entries * part for x, part in zip(case.site.operands, pulled, strict=True)]

    latex = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{x_i\, \partial y_j / \partial x_i}{y_j} \Phi_j"
    return (
        sums(Promise.CONSERVES, _shared, SHARED, None, ", where f is homogeneous of degree 1, as these are"),
        equals(_shared, SHARED, formula, "each operand by its share of the output", latex),
    )


@functools.cache
def _selections() -> tuple[Case, ...]:
    return (
        case("maxima, one of them 0", call(aten.amax.default, symbols("x", [[[2, 3], [-1, -4], [-2, 0]]]), [2])),
        case("ReLU, open and closed", call(aten.relu.default, symbols("x", [[2, -3, 5]]))),
    )


SELECTIONS = "maxima of pairs, and ReLU, of 3 to 6 entries"


def selective(rule: Rule) -> tuple[Claim, ...]:
    """`proportional` for what selects."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        y = case.site.y.entries
        return [_selected(case, over(phi, y) * y)]

    return (
        sums(
            Promise.CONSERVES,
            _selections,
            SELECTIONS,
            None,
            ", in exact division: what falls on 0 goes to the other entries",
        ),
        equals(
            _selections,
            SELECTIONS,
            formula,
            "all to the entry that was selected",
            r"\Phi^{\mathrm{in}}_i = \sum_{j:\, y_j = x_i} \Phi_j",
        ),
        _masks(formula),
    )


def _masks(formula: Formula) -> Claim:
    """In the published division: the same formula, for a rule that does not count as dividing."""
    division = Division("one-sided", EPSILON)

    def residuals(rule: Rule) -> Iterator[Number]:
        for each in _selections():
            found = messages(rule, each, division)
            for target, phi in enumerate(each.message):
                yield from differences(found, formula(each, phi, quotient(division)), target)

    says = f"{Promise.MASKS}, in the published division: an output of 0 hands on nothing"
    latex = r"\Phi^{\mathrm{in}}_i = \sum_{j:\, y_j = x_i} \frac{y_j}{y_j + \varepsilon} \Phi_j"
    return Claim(says, SELECTIONS, residuals, latex, Promise.MASKS)


def _selected(case: Case, phi: np.ndarray) -> np.ndarray:
    """A message at the entries that were selected, by comparing with the output."""
    x, y = case.site.x.entries, case.site.y.entries
    found = np.full(x.shape, number(0), dtype=object)
    for index in np.ndindex(*y.shape):
        row = x[index]
        if isinstance(row, np.ndarray):
            place = next(i for i, entry in enumerate(row) if entry.expression == y[index].expression)
            found[(*index, place)] = phi[index]
        elif y[index]:
            found[index] = phi[index]
    return found


def winner(rule: Rule) -> tuple[Claim, ...]:
    """Maxima by their gradient."""

    def cases() -> tuple[Case, ...]:
        return _selections()[:1]

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        return [_selected(case, phi)]

    latex = r"\Phi^{\mathrm{in}}_i = \sum_{j:\, y_j = x_i} \Phi_j"
    return (
        sums(Promise.CONSERVES, cases, "maxima of 3 pairs"),
        equals(cases, "maxima of 3 pairs", formula, "all to the entry that was selected", latex),
    )


@functools.cache
def _averages() -> tuple[Case, ...]:
    x = symbols("x", [[[2, -3], [5, 1], [0, 0]]])
    return (case("means, one of them of zeros", call(aten.mean.dim, x, [2])),)


def average(rule: Rule) -> tuple[Claim, ...]:
    """By sizes, with the weights of a mean."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        sizes = np.abs(case.site.x.entries) / number(2)
        return [sizes * over(phi, sizes.sum(2))[..., None]]

    latex = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{|x_i| / n}{\sum_k |x_k| / n} \Phi_j"
    return (
        sums(Promise.CONSERVES, _averages, "means of 3 pairs"),
        equals(_averages, "means of 3 pairs", formula, "each entry by its size", latex),
    )


@functools.cache
def _sums() -> tuple[Case, ...]:
    a, b = pair((2, -3, 0), (5, 1, 0))
    return case("a sum", call(aten.add.Tensor, a, b)), case("a difference", call(aten.sub.Tensor, a, b))


def merge_by_size(rule: Rule) -> tuple[Claim, ...]:
    """|a| / (|a| + |b|)."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        sizes = [np.abs(x.entries) for x in case.site.operands]
        return [size * over(phi, sizes[0] + sizes[1]) for size in sizes]

    layer, latex = "sum and difference of two signals of 3 entries", r"\Phi_a = \frac{|a|}{|a| + |b|} \Phi"
    return (
        sums(Promise.CONSERVES, _sums, layer),
        equals(_sums, layer, formula, "each term by its size", latex),
    )


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.rules.propagation:proportional": proportional,
    "agf_fx.rules.propagation:selective": selective,
    "agf_fx.rules.propagation:average": average,
    "agf_fx.rules.propagation:merge_by_size": merge_by_size,
    "agf_fx.rules.lrp:winner": winner,
}
