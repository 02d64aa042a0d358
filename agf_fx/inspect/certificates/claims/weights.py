"""Certificates of layer-wise relevance propagation: γ, w² and ♭."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.claims.layers import as_convolution, layer_cases, parameter, sum_promised
from agf_fx.inspect.certificates.laws import SUM_IN, Quotient, equals, negative, positive
from agf_fx.inspect.certificates.layers import LINEAR, Case, linear
from agf_fx.inspect.certificates.numbers import Number, number, total
from agf_fx.rules.rule import Promise, Rule


def _z(case: Case, bias: bool) -> np.ndarray:
    z = case.x @ case.weight.T
    return z + case.bias if bias and case.bias is not None else z


def gamma(rule: Rule) -> tuple[Claim, ...]:
    """LRP-γ."""
    bias = rule.promise is Promise.SAVE_BIASES

    def parts(case: Case) -> tuple[np.ndarray, np.ndarray]:
        """Contributions scaled by 1 + γ where they have the sign of the output, and those of the bias."""
        more = parameter(rule, "γ")
        z = _z(case, bias)
        ahead = np.frompyfunc(lambda n: number(int(n.value >= 0)), 1, 1)(z)[0]
        behind = number(1) - ahead

        def scaled(a: np.ndarray, ahead: np.ndarray, behind: np.ndarray) -> np.ndarray:
            return a + (positive(a) * ahead + negative(a) * behind) * more

        products = scaled(case.x * case.weight, ahead[:, None], behind[:, None])
        own = np.array([number(0)] * len(products)) if case.bias is None or not bias else case.bias
        return products, scaled(own, ahead, behind)

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        products, own = parts(case)
        return [over(phi, products.sum(1)[None] + own) @ products]

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        products, own = parts(case)
        return total((over(phi, products.sum(1)[None] + own) * own).flat)

    says = "each input by its contribution, which counts 1 + γ times where it has the sign of the output"
    latex = (
        r"\Phi^{\mathrm{in}}_i = \sum_j \frac{c_{ji}}{\sum_k c_{jk} + c_{jb}} \Phi_j,\quad "
        r"c_{ji} = x_i w_{ji} + \gamma (x_i w_{ji})^{\operatorname{sign} z_j}"
    )
    return (
        sum_promised(
            rule,
            _without_zeros,
            LINEAR,
            lost,
            rf"{SUM_IN} = \sum_j \Phi_j (1 - c_{{jb}} / (\sum_k c_{{jk}} + c_{{jb}}))",
        ),
        equals(_without_zeros, LINEAR, formula, says, latex),
        as_convolution(),
    )


def _without_zeros() -> tuple[Case, ...]:
    return (*linear(bias=True)[:5], linear()[0])


def w_square(rule: Rule) -> tuple[Claim, ...]:
    """LRP-w²."""
    bias = rule.promise is Promise.SAVE_BIASES

    def z(case: Case) -> np.ndarray:
        found = (case.weight * case.weight).sum(1)[None]
        return found + case.bias * case.bias if bias and case.bias is not None else found

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        return [over(phi, z(case)) @ (case.weight * case.weight)]

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        return number(0) if case.bias is None else total((over(phi, z(case)) * case.bias * case.bias).flat)

    latex = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{w_{ji}^2}{\sum_k w_{jk}^2 + b_j^2} \Phi_j"
    return (
        sum_promised(
            rule, layer_cases, LINEAR, lost, rf"{SUM_IN} = \sum_j \Phi_j (1 - b_j^2 / (\sum_k w_{{jk}}^2 + b_j^2))"
        ),
        equals(layer_cases, LINEAR, formula, "each input by the square of its weight", latex),
        as_convolution(),
    )


def flat(rule: Rule) -> tuple[Claim, ...]:
    """LRP-♭."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        ones = np.full(case.weight.shape, number(1))
        return [over(phi, ones.sum(1)[None]) @ ones]

    latex = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{1}{n_j} \Phi_j"
    return (
        sum_promised(rule, layer_cases, LINEAR),
        equals(layer_cases, LINEAR, formula, "the n inputs that an output reads get the same", latex),
        as_convolution(),
    )


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.rules.lrp:gamma_rule.<locals>.gamma_": gamma,
    "agf_fx.rules.lrp:w_square.<locals>.w_square_": w_square,
    "agf_fx.rules.lrp:flat.<locals>.flat_": flat,
}
