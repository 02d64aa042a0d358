"""Certificates of normalisations whose scale is a constant."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.laws import CONSERVED, SUM_IN, Quotient, equals, sums
from agf_fx.inspect.certificates.layers import Case, Constant, call, case
from agf_fx.inspect.certificates.numbers import Number, number, numbers, symbols, total
from agf_fx.rules.rule import Promise, Rule

aten = torch.ops.aten
Messages = list[np.ndarray | None]


@functools.cache
def norms(shift: bool) -> tuple[Case, ...]:
    """Layer, group and RMS norm; 1 / σ is 1 / a symbol, by the choice of eps."""
    sigma = symbols("sigma", [7])[0]
    x = symbols("x", [[2, -3, 5]])
    gamma, beta = Constant(symbols("gamma", [3, -2, 1])), Constant(symbols("beta", [0.5, 1, -1])) if shift else None
    c = x - x.sum(1, keepdims=True) / number(3)
    eps = sigma * sigma - (c * c).sum() / number(3)
    rms_eps = sigma * sigma - (x * x).sum() / number(3)
    group_gamma = Constant(symbols("gamma", [3, -2]))
    group_beta = Constant(symbols("beta", [0.5, 1])) if shift else None
    one_group = symbols("x", [[[2], [-3]]])
    c_one = one_group.reshape(2) - one_group.sum() / number(2)
    group_eps = sigma * sigma - (c_one * c_one).sum() / number(2)
    found = [
        case("layer norm", call(aten.layer_norm.default, x, [3], gamma, beta, eps, True), beta=beta, kind="layer"),
        case(
            "group norm",
            call(aten.group_norm.default, one_group, 1, group_gamma, group_beta, group_eps, True),
            beta=group_beta,
            kind="group",
        ),
    ]
    if not shift:
        found.append(case("RMS norm", call(aten.rms_norm.default, x, [3], gamma, rms_eps), beta=None, kind="rms"))
    return tuple(found)


def constant_scale(rule: Rule) -> tuple[Claim, ...]:
    """Norms with 1 / σ for a constant."""
    layer = "layer norm of 3 entries, group norm of 2, RMS norm of 3"
    sigma = symbols("sigma", [7])[0]

    def parts(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Contributions (outputs, inputs), their sums, and β."""
        x = case.site.x.entries.reshape(-1)
        n, gamma = len(x), case.site.args[2].entries
        eye = numbers(np.eye(n))
        centre = eye if case.kind == "rms" else eye - number(1) / number(n)
        products = gamma[:, None] * centre / sigma * x
        beta = np.full(n, number(0)) if case.beta is None else case.beta.values
        return products, products.sum(1), beta

    bias = rule.promise is Promise.SAVE_BIASES

    def quotients(case: Case, phi: np.ndarray, over: Quotient) -> np.ndarray:
        _, z, beta = parts(case)
        return over(phi.reshape(1, -1), (z + beta if bias else z)[None])

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        products, _, _ = parts(case)
        return [(quotients(case, phi, over) @ products).reshape(case.site.x.shape)]

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        _, _, beta = parts(case)
        return total((quotients(case, phi, over) * beta).flat) if bias else number(0)

    def cases() -> tuple[Case, ...]:
        return (*norms(True), *norms(False))

    latex = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{x_i \gamma_j (\delta_{ij} - 1/n) / \sigma}{y_j} \Phi_j"
    law = rf"{SUM_IN} = \sum_j \Phi_j (1 - \beta_j / y_j)" if bias else CONSERVED
    promise = Promise.SAVE_BIASES if bias else Promise.CONSERVES
    return (
        sums(promise, cases, layer, lost, ", which take exactly their share" if bias else "", law),
        equals(cases, layer, formula, "each entry by its share of the output, σ a constant", latex),
    )


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.rules.norms:constant_scale.<locals>.constant_scale_": constant_scale,
}
