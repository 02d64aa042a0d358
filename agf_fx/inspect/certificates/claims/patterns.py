"""Certificates of layers with patterns in the place of weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.laws import Quotient, equals
from agf_fx.inspect.certificates.layers import Case, Constant, call, case, messages
from agf_fx.inspect.certificates.numbers import Number, number, symbols, total
from agf_fx.rules.rule import Promise, Rule

aten = torch.ops.aten
Messages = list[np.ndarray | None]


@functools.cache
def _patterns(regimes: int) -> tuple[Case, ...]:
    x, weight = symbols("x", [[2, 3]]), symbols("W", [[3, -1], [-2, 1]])
    above, below = symbols("a", [[1, 2], [3, -1]]), symbols("c", [[2, -1], [1, 4]])
    beside = {"pattern": above} if regimes == 1 else {"pattern": above, "pattern below": below}
    site = call(aten.linear.default, x, Constant(weight), None, beside=beside)
    about = "one pattern" if regimes == 1 else "a pattern for outputs above 0, and one below"
    return (case(about, site, "g", weight=weight, used=above if regimes == 1 else np.stack([above[0], below[1]])),)


PATTERNS = "linear layer, 2 inputs, 2 outputs, with patterns: of one regime, and of two"


def _both_regimes() -> tuple[Case, ...]:
    return (*_patterns(1), *_patterns(2))


def signal(rule: Rule) -> tuple[Claim, ...]:
    """PatternNet."""

    def formula(case: Case, g: np.ndarray, over: Quotient) -> Messages:
        return [g @ case.used]

    says = "the transposed layer, with patterns for weights"
    return (equals(_both_regimes, PATTERNS, formula, says, r"\nabla x_i = \sum_j a_{ji} \nabla y_j"),)


def attribution(rule: Rule) -> tuple[Claim, ...]:
    """PatternAttribution."""

    def formula(case: Case, g: np.ndarray, over: Quotient) -> Messages:
        return [g @ (case.weight * case.used)]

    says = "the transposed layer, with weights times patterns for weights"
    return (
        equals(_both_regimes, PATTERNS, formula, says, r"\Phi^{\mathrm{in}}_i = \sum_j w_{ji} a_{ji} \Phi_j"),
        Claim(
            "may lose by masking: conserves where wᵀa = 1, and loses all of a neuron without a pattern",
            PATTERNS,
            _unit_patterns,
            r"w_j^{\mathsf T} a_j = 1 \Rightarrow \sum_i \Phi^{\mathrm{in}}_i = \sum_j \Phi_j",
            Promise.MASKS,
        ),
    )


def _unit_patterns(rule: Rule) -> Iterator[Number]:
    x, weight = symbols("x", [[2, 3]]), symbols("W", [[3, -1], [-2, 1]])
    first = symbols("a", [1, 2])
    second = (number(1) - weight[:, 0] * first) / weight[:, 1]
    whole = np.stack([first, second], 1)
    without = np.stack([whole[0], np.full(2, number(0), dtype=object)])
    for pattern, silent in ((whole, 0), (without, 1)):
        each = case("wᵀa = 1", call(aten.linear.default, x, Constant(weight), None, beside={"pattern": pattern}))
        (found, *_) = messages(rule, each)
        for target, phi in enumerate(each.message):
            kept = total(phi.flat) - phi[0, 1] * silent
            yield total(found[target].flat) - kept


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.rules.patterns:signal": signal,
    "agf_fx.rules.patterns:attribution": attribution,
}
