"""Certificates of ReLUs whose gradient is another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.laws import Quotient, equals, positive
from agf_fx.inspect.certificates.layers import Case, call, message
from agf_fx.inspect.certificates.numbers import Number, number, symbols
from agf_fx.rules.rule import Rule

aten = torch.ops.aten
Messages = list[np.ndarray | None]


@functools.cache
def _relus() -> tuple[Case, ...]:
    x = symbols("x", [[2, -3, 5, -1]])
    site = call(aten.relu.default, x)
    return (Case("open and closed, gradients of both signs", site, message("g", (4,), (2, 3, -5, -7)), {"x": x}),)


def _of_relus(
    formula: Callable[[Case, np.ndarray, Rule], np.ndarray], says: str, latex: str
) -> Callable[[Rule], tuple]:
    def claims(rule: Rule) -> tuple[Claim, ...]:
        def wanted(case: Case, g: np.ndarray, over: Quotient) -> Messages:
            return [formula(case, g, rule)]

        return (equals(_relus, "ReLU of 4 entries: open and closed, gradients above and below 0", wanted, says, latex),)

    return claims


def _opened(x: np.ndarray) -> np.ndarray:
    return np.frompyfunc(lambda entry: number(int(entry.value > 0)), 1, 1)(x)


def _softplus_slope(case: Case, g: np.ndarray, rule: Rule) -> np.ndarray:
    """The derivative of log(1 + exp(βx)) / β, by sympy."""
    beta = sympy.Rational(dict(rule.parameters)["β"])

    def slope(x: Number) -> Number:
        found = sympy.log(1 + sympy.exp(beta * x.expression)).diff(x.expression) / beta
        return Number(found, float(found.subs(x.expression, x.value)))

    return g * np.frompyfunc(slope, 1, 1)(case.x)


guided = _of_relus(
    lambda case, g, rule: positive(g) * _opened(case.x),
    "positive gradients of open ReLUs pass, and nothing else",
    r"\nabla x_i = [x_i > 0]\, \max(\nabla y_i, 0)",
)
deconvolved = _of_relus(
    lambda case, g, rule: positive(g),
    "positive gradients pass, whether the ReLU is open or not",
    r"\nabla x_i = \max(\nabla y_i, 0)",
)
smoothed = _of_relus(
    _softplus_slope,
    "the gradient of softplus, by sympy's derivative",
    r"\nabla x_i = \frac{\partial}{\partial x_i} \frac{\log(1 + e^{\beta x_i})}{\beta} \nabla y_i",
)


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.rules.gradients:_guided": guided,
    "agf_fx.rules.gradients:_deconvolved": deconvolved,
    "agf_fx.rules.gradients:smoothed.<locals>.smoothed_": smoothed,
}
