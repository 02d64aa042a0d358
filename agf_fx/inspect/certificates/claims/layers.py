"""Certificates of layers in the rules that methods share: by the size of contributions, z^B, and where AGF starts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.laws import (
    CONSERVED,
    Formula,
    Lost,
    Quotient,
    equals,
    negative,
    positive,
    scale_free,
    sums,
)
from agf_fx.inspect.certificates.layers import (
    LINEAR,
    LINEAR_3,
    Case,
    Constant,
    call,
    case,
    linear,
    linear_of_three,
    linear_with_gradient,
    messages,
)
from agf_fx.inspect.certificates.numbers import Number, number, symbols
from agf_fx.rules.rule import Promise, Rule
from agf_fx.rules.site import GRADIENT

aten = torch.ops.aten


def parameter(rule: Rule, name: str) -> Number:
    """A parameter of a rule, as the rational number that it is."""
    return number(dict(rule.parameters)[name])


def layer_cases() -> tuple[Case, ...]:
    """Linear layers with a bias, by signs; and one without."""
    return (*linear(bias=True), linear()[0])


def rescaled(case: Case, scale: np.ndarray) -> Case:
    """The layer with its outputs scaled, and the same message."""
    return Case(case.about, _scaled_site(case, scale), case.message, case.values)


def _scaled_site(case: Case, scale: np.ndarray):  # noqa: ANN202
    bias = None if case.bias is None else Constant(case.bias * scale)
    return call(aten.linear.default, case.x, Constant(case.weight * scale[:, None]), bias)


def sum_promised(rule: Rule, cases: Callable, layer: str, lost: Lost | None = None, latex: str = CONSERVED) -> Claim:
    """What the rule's own promise says of the sum: but for biases there is a loss, and else none."""
    if rule.promise in (Promise.SAVE_BIASES, Promise.BOTH_SIGNS_SAVE_BIASES) and lost is not None:
        return sums(rule.promise, cases, layer, lost, ", which take exactly their share of every denominator", latex)
    both = Promise.BOTH_SIGNS if rule.promise is Promise.BOTH_SIGNS else Promise.CONSERVES
    return sums(both, cases, layer)


@functools.cache
def _twins() -> tuple[tuple[Case, Case], ...]:
    """Linear layers, and convolutions whose kernel is as long as their input."""
    found = []
    for each in (*linear_of_three(), *linear(bias=True)[:3]):
        bias = None if each.bias is None else Constant(each.bias)
        options = (Constant(each.weight[:, None]), bias, [1], [0], [1], 1)
        site = call(aten.conv1d.default, each.x[:, None], *options)
        found.append((each, Case(each.about, site, each.message[..., None])))
    return tuple(found)


def as_convolution() -> Claim:
    """Of a convolution that has one position, that it is a linear layer."""

    def residuals(rule: Rule) -> Iterator[Number]:
        for layer, convolution in _twins():
            (found, *_), (other, *_) = messages(rule, layer), messages(rule, convolution)
            yield from (found - other[:, :, 0]).flat

    says = "a convolution whose kernel is as long as its input hands on what the linear layer does"
    latex = r"\Phi^{\mathrm{in}}_{\mathrm{conv}} = \Phi^{\mathrm{in}}_{\mathrm{linear}}"
    return Claim(says, "convolutions of 2 to 4 positions", residuals, latex)


# By the sizes of contributions


def _by_size(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
    x, weight = np.abs(case.x), np.abs(case.weight)
    return [x * (over(phi, x @ weight.T) @ weight)]


BY_SIZE = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{|x_i w_{ji}|}{\sum_k |x_k w_{jk}|} \Phi_j"


def by_size(rule: Rule) -> tuple[Claim, ...]:
    """C of AGF, and RAP's rule of pointwise convolutions."""
    both = functools.partial(scale_free, lambda: linear()[:2], LINEAR, rescaled)
    return (
        sum_promised(rule, layer_cases, LINEAR),
        equals(layer_cases, LINEAR, _by_size, "each input by the size of its contribution (eq. 9)", BY_SIZE),
        both(signs=(1, -1)),
        as_convolution(),
    )


# z^B


def _box(low: Number | None, high: Number | None) -> Formula:
    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        ordered = sorted(case.x.flat, key=lambda entry: entry.value)
        least, most = low or ordered[0], high or ordered[-1]
        shares = (case.x - least) * positive(case.weight) + (case.x - most) * negative(case.weight)
        return [over(phi, shares.sum(1)[None]) @ shares]

    return formula


BOX = (
    r"\Phi^{\mathrm{in}}_i = \sum_j \frac{z_{ji}}{\sum_k z_{jk}} \Phi_j,\quad "
    r"z_{ji} = x_i w_{ji} - l w_{ji}^+ - h w_{ji}^-"
)


def z_box(rule: Rule) -> tuple[Claim, ...]:
    """The rule of bounded inputs, whose bounds are given or those of the sample."""
    known = dict(rule.parameters)
    bounds = [number(known[name]) if name in known else None for name in ("l", "h")]
    return (
        sum_promised(rule, linear_of_three, LINEAR_3),
        equals(
            linear_of_three, LINEAR_3, _box(*bounds), "each input by what it adds to the bound that it could be", BOX
        ),
        scale_free(linear_of_three, LINEAR_3, rescaled, (1, 1)),
        as_convolution(),
        *(() if bounds[0] else (_blank(),)),
    )


@functools.cache
def _constant_image() -> tuple[Case, ...]:
    pixel, weight = symbols("c", [2]), symbols("W", ((2, -1, 4), (-3, 1, 2)))
    x = np.broadcast_to(pixel, (1, 3))
    return (case("every pixel is an extreme one", call(aten.linear.default, x, Constant(weight), None), weight=weight),)


def _blank() -> Claim:
    """Of an image of one colour, in exact division."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        size = np.abs(case.weight)
        return [over(phi, size.sum(1)[None]) @ size]

    latex = r"x = c\mathbf 1 \Rightarrow \Phi^{\mathrm{in}}_i = \sum_j \frac{|w_{ji}|}{\sum_k |w_{jk}|} \Phi_j"
    says = "of an image of one colour, each pixel by the sizes of its weights (eq. 10), in exact division"
    return equals(_constant_image, LINEAR_3, formula, says, latex, with_epsilon=False)


def initial_attribution(rule: Rule) -> tuple[Claim, ...]:
    """Where the relevance of AGF starts."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        gradient = case.site.sent[GRADIENT].received.entries[case.target_of(phi)]
        return [case.x * (gradient @ case.weight)]

    latex = r"\Phi_i = x_i \sum_j w_{ji} \frac{\partial \hat y_t}{\partial y_j}"
    return (
        equals(
            linear_with_gradient,
            LINEAR,
            formula,
            "starts as input times gradient (eq. 8), whatever it is handed",
            latex,
        ),
    )


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.rules.propagation:flat": by_size,
    "agf_fx.rules.rap:pointwise": by_size,
    "agf_fx.rules.propagation:z_box": z_box,
    "agf_fx.rules.lrp:z_box.<locals>.z_box_": z_box,
    "agf_fx.rules.propagation:initial_attribution": initial_attribution,
}
