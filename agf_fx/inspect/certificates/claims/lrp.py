"""Certificates of layer-wise relevance propagation: ε, αβ, z⁺ and its negation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.claims.layers import as_convolution, layer_cases, rescaled, sum_promised
from agf_fx.inspect.certificates.laws import (
    SUM_IN,
    Formula,
    Quotient,
    equals,
    negative,
    nonzero,
    positive,
    scale_free,
    sums,
)
from agf_fx.inspect.certificates.layers import LINEAR, Case, Constant, call, case, linear, linear_of_both_signs
from agf_fx.inspect.certificates.numbers import Number, number, symbols, total
from agf_fx.rules.rule import Promise, Rule

aten = torch.ops.aten


def _epsilon(bias: bool) -> Formula:
    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        return [case.x * (over(phi, _z(case, bias)) @ case.weight)]

    return formula


def _z(case: Case, bias: bool) -> np.ndarray:
    z = case.x @ case.weight.T
    return z + case.bias if bias and case.bias is not None else z


def _of_bias(bias: np.ndarray | None, quotients: np.ndarray) -> Number:
    return number(0) if bias is None else total((quotients * bias).flat)


def epsilon(rule: Rule) -> tuple[Claim, ...]:
    """LRP-ε."""
    bias = rule.promise is Promise.SAVE_BIASES

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        return _of_bias(case.bias, over(phi, _z(case, bias)))

    formula = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{x_i w_{ji}}{z_j \pm \varepsilon} \Phi_j"
    return (
        sum_promised(rule, layer_cases, LINEAR, lost, rf"{SUM_IN} = \sum_j \Phi_j (1 - b_j / z_j)"),
        equals(layer_cases, LINEAR, _epsilon(bias), "each input by its share of the output (eq. 58)", formula),
        scale_free(lambda: linear()[:2], LINEAR, rescaled, (1, -1)),
        as_convolution(),
    )


def _sides(case: Case, bias: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Contributions (outputs, inputs) of either sign, and what they sum to with the parts of the bias."""
    products = case.x * case.weight
    ahead, behind = positive(products), negative(products)
    own = case.bias if bias and case.bias is not None else np.array([number(0)] * len(products))
    return ahead, behind, ahead.sum(1)[None] + positive(own), behind.sum(1)[None] + negative(own)


def _weights(rule: Rule, z_ahead: np.ndarray, z_behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the two parts count at each output: α and -β; in the lossless rule 1 and 0 where there is only one."""
    known = dict(rule.parameters)
    alpha, beta = number(known.get("α", 1)), number(known.get("β", 0))
    both = nonzero(z_ahead) * nonzero(z_behind)
    if not known.get("lossless"):
        return both * 0 + alpha, both * 0 - beta
    behind_alone = nonzero(z_behind) - both
    return both * alpha + (1 - both - behind_alone), behind_alone - both * beta


ALPHA_BETA = (
    r"\Phi^{\mathrm{in}}_i = \sum_j \left(\alpha \frac{(x_i w_{ji})^+}{z_j^+} "
    r"- \beta \frac{(x_i w_{ji})^-}{z_j^-}\right) \Phi_j"
)


def alpha_beta(rule: Rule) -> tuple[Claim, ...]:
    """LRP-αβ and z⁺, as published and lossless, with and without biases."""
    bias = rule.promise in (Promise.SAVE_BIASES, Promise.BOTH_SIGNS_SAVE_BIASES)
    lossless = rule.promise in (Promise.CONSERVES, Promise.SAVE_BIASES)

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        ahead, behind, z_ahead, z_behind = _sides(case, bias)
        counts = _weights(rule, z_ahead, z_behind)
        return [over(phi * counts[0], z_ahead) @ ahead + over(phi * counts[1], z_behind) @ behind]

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        _, _, z_ahead, z_behind = _sides(case, bias)
        counts = _weights(rule, z_ahead, z_behind)
        if case.bias is None:
            return number(0)
        of_ahead = total((over(phi * counts[0], z_ahead) * positive(case.bias)).flat)
        return of_ahead + total((over(phi * counts[1], z_behind) * negative(case.bias)).flat)

    share = rf"{SUM_IN} = \sum_j \Phi_j (1 - \alpha b_j^+ / z_j^+ + \beta b_j^- / z_j^-)"
    cases = layer_cases if lossless else lambda: (*linear_of_both_signs(bias=True), linear_of_both_signs()[1])
    claims = (
        sum_promised(rule, cases, LINEAR, lost, share),
        equals(
            layer_cases,
            LINEAR,
            formula,
            "positive contributions by their share of z⁺, negative ones by theirs of z⁻ (eq. 60)",
            ALPHA_BETA,
        ),
    )
    return (*claims, as_convolution()) if lossless else (*claims, as_convolution(), _one_sign(rule))


@functools.cache
def _of_one_sign() -> tuple[Case, ...]:
    rows = (
        ("nothing speaks against the output", ((1, 2),), True),
        ("nothing speaks for the output", ((-1, -2),), False),
    )
    x = symbols("x", [[2, 3]])
    return tuple(
        case(about, call(aten.linear.default, x, Constant(symbols("W", weight)), None), ahead=ahead)
        for about, weight, ahead in rows
    )


def _one_sign(rule: Rule) -> Claim:
    known = dict(rule.parameters)
    alpha, beta = number(known.get("α", 1)), number(known.get("β", 0))

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        return total(phi.flat) * (number(1) - (alpha if case.ahead else -beta))

    says = ": of an output whose contributions have one sign, α Φ or -β Φ is handed on"
    return sums(
        Promise.BOTH_SIGNS,
        _of_one_sign,
        "linear layer, 2 inputs, 1 output",
        lost,
        says,
        rf"{SUM_IN} \in \{{\alpha\Phi, -\beta\Phi\}}",
    )


def z_minus(rule: Rule) -> tuple[Claim, ...]:
    """z⁺ of the negated layer."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        against = -negative(case.x * case.weight)
        return [over(phi, against.sum(1)[None]) @ against]

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        return total(phi.flat) if case.ahead else number(0)

    return (
        equals(
            layer_cases,
            LINEAR,
            formula,
            "each input by its share of what speaks against the output",
            r"\Phi^{\mathrm{in}}_i = \sum_j \frac{(x_i w_{ji})^-}{z_j^-} \Phi_j",
        ),
        sums(
            Promise.MASKS,
            linear_of_both_signs,
            LINEAR,
            None,
            ": nothing where something speaks against every output",
        ),
        sums(
            Promise.MASKS,
            _of_one_sign,
            "linear layer, 2 inputs, 1 output",
            lost,
            ": all of an output that nothing speaks against",
            rf"{SUM_IN} = 0",
        ),
        as_convolution(),
    )


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.rules.lrp:epsilon_rule.<locals>.epsilon_": epsilon,
    "agf_fx.rules.lrp:alpha_beta.<locals>.alpha_beta_": alpha_beta,
    "agf_fx.rules.lrp:z_minus.<locals>.z_minus_": z_minus,
}
