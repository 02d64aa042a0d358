"""Certificates of what changes no relevance, or moves it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.laws import SUM_IN, Quotient, equals, nonzero, of_constants, sums, transposed
from agf_fx.inspect.certificates.layers import Case, Constant, call, case
from agf_fx.inspect.certificates.numbers import Number, numbers, symbols
from agf_fx.rules.rule import Promise, Rule

aten = torch.ops.aten
Messages = list[np.ndarray | None]


@functools.cache
def _activations() -> tuple[Case, ...]:
    x = symbols("x", [[2, -3]])
    weight, bias, mean, variance = (symbols(name, [3, 2]) for name in ("gamma", "beta", "mu", "v"))
    constants = map(Constant, (weight, bias, mean, variance))
    maps = symbols("x", [[[2, -3], [5, 1]]])
    return (
        case("ReLU", call(aten.relu.default, x)),
        case("sigmoid", call(aten.sigmoid.default, x)),
        case("batch norm", call(aten.batch_norm.default, maps, *constants, False, 0.0, 0, True)),
    )


def pass_through(rule: Rule) -> tuple[Claim, ...]:
    """The identity."""
    layer = "ReLU, sigmoid and batch norm of 2 to 4 entries"

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        return [phi] * len(case.site.operands)

    return (
        sums(Promise.CONSERVES, _activations, layer),
        equals(_activations, layer, formula, "relevance unchanged (eq. 9)", r"\Phi^{\mathrm{in}}_i = \Phi_i"),
    )


@functools.cache
def _masked() -> tuple[Case, ...]:
    x, mask = symbols("x", [[2, -3, 5]]), symbols("c", [3, 0, -2])
    return (case("a factor of 0", call(aten.mul.Tensor, x, Constant(mask)), mask=mask),)


def scaled(rule: Rule) -> tuple[Claim, ...]:
    """A product with a constant tensor."""
    layer = "3 entries times constants, of which one is 0"

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        return [phi * nonzero(case.mask)] * len(case.site.operands)

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        return of_constants(case, phi)

    return (
        sums(
            Promise.SAVE_CONSTANTS, _masked, layer, lost, ", entries that are 0 whatever the input is", _SAVE_CONSTANTS
        ),
        equals(
            _masked,
            layer,
            formula,
            "relevance unchanged where the constant is not 0",
            r"\Phi^{\mathrm{in}}_i = [c_i \neq 0]\,\Phi_i",
        ),
    )


_SAVE_CONSTANTS = rf"{SUM_IN} = \sum_{{j:\, y_j \text{{ depends on }} x}} \Phi_j"


@functools.cache
def movements() -> tuple[Case, ...]:
    """Data movement, with and without constants among what is moved."""
    x, maps, c = symbols("x", [[2, -3, 5]]), symbols("x", [[[2, -3, 5], [7, 1, -4]]]), Constant(symbols("c", [[3]]))
    mask, index = (Constant(numbers(np.array(places))) for places in ([[1, 0, 1]], [2, 0, 2]))
    calls = (
        ("reshape", call(aten.reshape.default, maps, [1, 6])),
        ("permute", call(aten.permute.default, maps, [0, 2, 1])),
        ("cat with a constant", call(aten.cat.default, [x, c], 1)),
        ("expand", call(aten.expand.default, symbols("x", [[[2], [-3]]]), [-1, 2, 3])),
        ("slice with a step", call(aten.slice.Tensor, symbols("x", [[[2, -3], [5, 7], [1, 4], [-2, 3]]]), 1, 1, 4, 2)),
        ("select", call(aten.select.int, maps, 2, 1)),
        ("index_select that repeats", call(aten.index_select.default, x, 1, index)),
        ("roll", call(aten.roll.default, maps, [1], [2])),
        ("padding and cropping", call(aten.constant_pad_nd.default, x, [2, -1], 0)),
        ("masked_fill", call(aten.masked_fill.Scalar, x, mask, 0)),
        ("where of a signal and a constant", call(aten.where.self, mask, x, Constant(symbols("c", [[3, 1, 2]])))),
    )
    return tuple(case(about, site) for about, site in calls)


MOVEMENT = "reshape, permute, cat, expand, slice, select, index_select, roll, pad, masked_fill, where of 3 to 8 entries"


def move_back(rule: Rule) -> tuple[Claim, ...]:
    """The adjoint of data movement."""

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        return of_constants(case, phi)

    return (
        sums(
            Promise.SAVE_CONSTANTS,
            movements,
            MOVEMENT,
            lost,
            ", entries of the output that are none of the input",
            _SAVE_CONSTANTS,
        ),
        transposed(movements, MOVEMENT, "every entry goes back where it came from: the transposed Jacobian"),
    )


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.rules.propagation:pass_through": pass_through,
    "agf_fx.rules.propagation:scaled": scaled,
    "agf_fx.rules.propagation:move_back": move_back,
}
