"""Certificates of relative attributing propagation."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.claims.layers import as_convolution
from agf_fx.inspect.certificates.laws import Quotient, equals, negative, nonzero, positive, sums
from agf_fx.inspect.certificates.layers import LINEAR, Case, linear
from agf_fx.inspect.certificates.numbers import Number, number, total
from agf_fx.rules.rule import Promise, Rule

aten = torch.ops.aten
Messages = list[np.ndarray | None]


@functools.cache
def _cases() -> tuple[Case, ...]:
    return linear(bias=True)[:5]


def _sides(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sizes of contributions of either sign (outputs, inputs), and their sums (1, outputs)."""
    products = case.x * case.weight
    speaks, against = positive(products), -negative(products)
    return speaks, against, speaks.sum(1)[None], against.sum(1)[None]


def _shifted(found: np.ndarray, phi: np.ndarray) -> np.ndarray:
    mask, surplus = nonzero(found), total(found.flat) - total(phi.flat)
    return found - mask * (surplus / total(mask.flat))


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where b is 0: RAP restores the sum by its shift, not by spreading."""
    return np.frompyfunc(lambda p, d: p / d if d else number(0), 2, 1)(a, b)


def _propagated(whole: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Callable:
    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        speaks, against, z_ahead, z_behind = _sides(case)
        first, second = whole(phi)
        share = phi * _divided(z_behind, z_ahead + z_behind)
        found = _divided(first, z_ahead) @ speaks + _divided(second + share, z_behind) @ against
        return [_shifted(found, phi)]

    return formula


def _claims(formula: Callable, says: str, latex: str) -> tuple[Claim, ...]:
    return (
        sums(Promise.SHIFTS, _cases, LINEAR, None, ": the shift restores the sum"),
        equals(_cases, LINEAR, formula, says, latex, with_epsilon=False),
        as_convolution(),
    )


SHIFT = (
    r"\Phi^{\mathrm{in}}_i = \phi_i - [\phi_i \neq 0] \frac{\sum_k \phi_k - \sum_j \Phi_j}{\#\{\phi \neq 0\}},\quad "
    r"\phi_i = "
)


def linear_rule(rule: Rule) -> tuple[Claim, ...]:
    """Linear layers."""
    formula = _propagated(lambda phi: (phi, phi * number(0)))
    latex = (
        SHIFT + r"\sum_j \frac{(x_i w_{ji})^+}{z_j^+} \Phi_j + \frac{(x_i w_{ji})^-}{z_j^-} \frac{z_j^-}{z_j} \Phi_j"
    )
    return _claims(
        formula, "positive contributions by the whole, negative ones by their share, then the mean shift", latex
    )


def convolution(rule: Rule) -> tuple[Claim, ...]:
    """Convolutions, on a linear layer: a convolution is one."""
    formula = _propagated(lambda phi: (positive(phi), negative(phi)))
    latex = SHIFT + (
        r"\sum_j \frac{(x_i w_{ji})^+}{z_j^+} \Phi_j^+ + "
        r"\frac{(x_i w_{ji})^-}{z_j^-} (\Phi_j^- + \frac{z_j^-}{z_j} \Phi_j)"
    )
    says = "positive relevance by positive contributions, negative by negative ones, then the mean shift"
    return _claims(formula, says, latex)


def first(rule: Rule) -> tuple[Claim, ...]:
    """The head of the published code."""

    def cases() -> tuple[Case, ...]:
        return (*linear(bias=True)[:3:2], linear()[1])

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        products = case.x * case.weight
        found = phi @ products
        if case.bias is not None:
            found = found + _by_bias(case, phi, products)
        size = np.abs(found)
        return [size / total(size.flat) * total(found.flat)]

    return (
        equals(
            cases,
            LINEAR,
            formula,
            "contributions to the logit by their size; the bias by the shares of either sign",
            r"\Phi^{\mathrm{in}}_i = \frac{|c_i|}{\sum_k |c_k|} \sum_k c_k,\ c_i = \sum_j x_i w_{ji} \Phi_j + c^b_i",
            with_epsilon=False,
        ),
    )


def _by_bias(case: Case, phi: np.ndarray, products: np.ndarray) -> np.ndarray:
    """The bias in parts: for and against by what speaks so in all, each to positive inputs by their contributions."""
    ahead, behind = positive(products), negative(products)
    of_ahead, of_behind = total((phi * ahead.sum(1)).flat), total((phi * behind.sum(1)).flat)
    inputs = np.array([number(int(x.value > 0)) for x in case.x.flat])
    found: np.ndarray | Number = number(0)
    for part, share in ((ahead * inputs, of_ahead), (behind * inputs, of_behind)):
        given = phi * case.bias * (share / (of_ahead + of_behind))
        found = found + _divided(given, part.sum(1)[None]) @ part
    return found


CLAIMS: dict[str, Callable[[Rule], tuple[Claim, ...]]] = {
    "agf_fx.rules.rap:linear": linear_rule,
    "agf_fx.rules.rap:convolution": convolution,
    "agf_fx.rules.rap:first": first,
}
