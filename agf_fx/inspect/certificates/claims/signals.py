"""Certificates of what combines two signals, or the entries of one: gates, products, attention, softmax."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.laws import Quotient, equals, sums
from agf_fx.inspect.certificates.layers import Case, call, case, messages
from agf_fx.inspect.certificates.numbers import Number, logs, number, symbols, total
from agf_fx.rules.rule import Promise, Rule

aten = torch.ops.aten
Messages = list[np.ndarray | None]


def pair(first: tuple, second: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Two signals (1, n)."""
    return symbols("a", [first]), symbols("b", [second])


@functools.cache
def _gates() -> tuple[Case, ...]:
    a, b = pair((2, -3), (5, 1))
    return tuple(
        case(f"operand {gate} is the gate", call(aten.mul.Tensor, a, b, facts={"gate": f"x{gate}"}), gate=gate)
        for gate in range(2)
    )


def gated(rule: Rule) -> tuple[Claim, ...]:
    """All to the signal."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        return [None if place == case.gate else phi for place in range(2)]

    layer = "signal and gate of 2 entries"
    return (
        sums(Promise.CONSERVES, _gates, layer),
        equals(_gates, layer, formula, "all to the signal, nothing to the gate", r"\Phi_s = \Phi,\quad \Phi_g = 0"),
    )


@functools.cache
def _products() -> tuple[Case, ...]:
    a, b = pair((2, -3, 0), (5, 1, 4))
    left, right = symbols("a", [[[2, -3], [5, 1]]]), symbols("b", [[[1, 4], [-2, 3]]])
    return (
        case("entry by entry, and a product of 0", call(aten.mul.Tensor, a, b)),
        case("matrices", call(aten.matmul.default, left, right)),
    )


def bilinear(rule: Rule) -> tuple[Claim, ...]:
    """Halves."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        pulled = jacobian_of_product(case, over(phi, case.site.y.entries) * number(0.5))
        return [x.entries * part for x, part in zip(case.site.operands, pulled, strict=True)]

    layer = "product of two signals of 3 entries, and of two 2×2 matrices"
    latex = r"\Phi^a_{ji} = \sum_p \frac{a_{ji} b_{ip}}{2 y_{jp}} \Phi_{jp}"
    return (
        sums(Promise.CONSERVES, _products, layer),
        equals(_products, layer, formula, "half of the relevance to either factor, by its share (eq. 15)", latex),
        _halves(),
    )


def _halves() -> Claim:
    def residuals(rule: Rule) -> Iterator[Number]:
        for each in _products():
            for found in messages(rule, each):
                for target, phi in enumerate(each.message):
                    yield total(found[target].flat) * 2 - total(phi.flat)

    return Claim(
        "either factor gets half of the sum", "the same", residuals, r"\sum \Phi^a = \sum \Phi^b = \tfrac12 \sum \Phi"
    )


def jacobian_of_product(case: Case, message: np.ndarray) -> Messages:
    """The transposed derivatives of a product, written out."""
    a, b = (x.entries for x in case.site.operands)
    if case.site.node.target is aten.mul.Tensor:
        return [message * b, message * a]
    return [message @ b.swapaxes(-2, -1), a.swapaxes(-2, -1) @ message]


@functools.cache
def _joint() -> tuple[Case, ...]:
    a, b = pair((3, -3, -5), (4, 4, 12))
    return case("√(a² + b²)", call(aten.hypot.default, a, b)), case(
        "a b", call(aten.mul.Tensor, *pair((2, -3), (5, 1)))
    )


def by_influence(rule: Rule) -> tuple[Claim, ...]:
    """By the sizes of input times derivative."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        ones = np.full(phi.shape, number(1), dtype=object)
        slopes = _hypot_slopes(case) if case.site.node.target is aten.hypot.default else jacobian_of_product(case, ones)
        sizes = [np.abs(x.entries * slope) for x, slope in zip(case.site.operands, slopes, strict=True)]
        return [size * over(phi, sizes[0] + sizes[1]) for size in sizes]

    latex = r"\Phi_a = \frac{|a\, \partial_a f|}{|a\, \partial_a f| + |b\, \partial_b f|} \Phi"
    layer = "√(a² + b²) and a b of 2 to 3 entries"
    return (
        sums(Promise.CONSERVES, _joint, layer),
        equals(_joint, layer, formula, "each operand by the size of its input times derivative", latex),
    )


def _hypot_slopes(case: Case) -> list[np.ndarray]:
    return [x.entries / case.site.y.entries for x in case.site.operands]


@functools.cache
def _log_sums() -> tuple[Case, ...]:
    x = logs(symbols("e", [[[2, 3], [0.5, 1.5]]]))
    return (case("log Σ exp", call(aten.logsumexp.default, x, [2]), x=x),)


def by_weights(rule: Rule) -> tuple[Claim, ...]:
    """By exp x / Σ exp x."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        powers = symbols("e", [[[2, 3], [0.5, 1.5]]])
        return [powers / powers.sum(2, keepdims=True) * phi[..., None]]

    layer, latex = "log Σ exp of 2 pairs", r"\Phi^{\mathrm{in}}_i = \frac{e^{x_i}}{\sum_k e^{x_k}} \Phi"
    return (
        sums(Promise.CONSERVES, _log_sums, layer),
        equals(_log_sums, layer, formula, "each entry by its weight", latex),
    )


@functools.cache
def _attention() -> tuple[Case, ...]:
    weights, left, right = (
        symbols("A", [[[2, 3], [0, 1]]]),
        symbols("V", [[[1, -4], [-2, 3]]]),
        symbols("V", [[[1, 4], [-2, 3]]]),
    )
    first = call(aten.matmul.default, weights, left, facts={"attention": "x0"})
    second = call(aten.matmul.default, right, weights, facts={"attention": "x1"})
    return case("A V", first, attention=0), case("V A", second, attention=1)


def constant_attention(rule: Rule) -> tuple[Claim, ...]:
    """By the value path alone."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        a, b = (x.entries for x in case.site.operands)
        if case.attention == 0:
            size = np.abs(b)
            return [None, size * (a.swapaxes(-2, -1) @ over(phi, a @ size))]
        size = np.abs(a)
        return [size * (over(phi, size @ b) @ b.swapaxes(-2, -1)), None]

    layer = "2×2 attention weights, of which one is 0, and values"
    latex = r"\Phi^V_{ip} = \sum_j \frac{A_{ji} |V_{ip}|}{\sum_k A_{jk} |V_{kp}|} \Phi_{jp}"
    return (
        sums(Promise.CONSERVES, _attention, layer),
        equals(_attention, layer, formula, "each value by the size of its contribution, nothing to the weights", latex),
    )


@functools.cache
def _softmaxes() -> tuple[Case, ...]:
    e = symbols("e", [[2, 3, 0.5]])
    masked = logs(e)
    masked[0, 1] = Number(-sympy.oo, -math.inf)
    return (
        case("softmax", call(aten.softmax.int, logs(e), 1, None)),
        case("a score masked out with -inf", call(aten.softmax.int, masked, 1, None)),
    )


def softmax(rule: Rule) -> tuple[Claim, ...]:
    """The first-order expansion."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        x, s = case.site.x.entries, case.site.y.entries
        found = np.full(x.shape, number(0), dtype=object)
        for i in range(x.shape[1]):
            if s[0, i]:
                shares = (s[0, i] * (number(int(i == j)) - s[0, j]) / s[0, j] * phi[0, j] for j in range(3) if s[0, j])
                gone = total(phi[0, j] for j in range(3) if not s[0, j])
                found[0, i] = x[0, i] * (total(shares) - s[0, i] * gone)
        return [found]

    latex = r"\Phi^{\mathrm{in}}_i = x_i \sum_j \frac{\partial s_j}{\partial x_i} \frac{\Phi_j}{s_j}"
    says = "the first-order expansion of softmax, x times derivative by the share (eq. 13); masked scores get nothing"
    return (equals(_softmaxes, "softmax of 3 scores", formula, says, latex),)


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.rules.propagation:gated": gated,
    "agf_fx.rules.propagation:bilinear": bilinear,
    "agf_fx.rules.propagation:by_influence": by_influence,
    "agf_fx.rules.propagation:by_weights": by_weights,
    "agf_fx.rules.propagation:constant_attention": constant_attention,
    "agf_fx.rules.propagation:softmax": softmax,
}
