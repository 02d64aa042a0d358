"""Certificates of Attribution Guided Factorization: the residual terms of layers, and their shift."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.claims.factorisation import FACTORISATION
from agf_fx.inspect.certificates.laws import Quotient, equals, nonzero, positive, sums
from agf_fx.inspect.certificates.layers import Case, Constant, call, case, message
from agf_fx.inspect.certificates.numbers import Number, number, sign, symbols, total
from agf_fx.inspect.certificates.symbolic import Symbolic, expressions
from agf_fx.ir.facts import FlattenBoundary
from agf_fx.options import AGFOptions
from agf_fx.rules import agf, propagation
from agf_fx.rules.numerics import EXACT, dividing
from agf_fx.rules.rule import Promise, Rule
from agf_fx.rules.site import GRADIENT

aten = torch.ops.aten
Messages = list[np.ndarray | None]


# A convolution of one channel, 3 positions, and a kernel of 2


_ROWS = (("inputs of both signs", (2, -3, 5)), ("an input of 0", (2, 0, 3)))


@functools.cache
def _convolutions() -> tuple[Case, ...]:
    return tuple(_convolution(about, symbols("x", [[values]]), symbols("W", [[[3, -1]]])) for about, values in _ROWS)


@functools.cache
def _of_numbers() -> tuple[Case, ...]:
    """The same with numbers for inputs, weights and the gradient: r has exponentials of all of these."""
    numbers = np.frompyfunc(number, 1, 1)
    weight = numbers(np.array([[[3, -1]]], dtype=object))
    return tuple(_convolution(about, numbers(np.array([[values]], dtype=object)), weight) for about, values in _ROWS)


def _convolution(about: str, x: np.ndarray, weight: np.ndarray) -> Case:
    gradient = message("g", (1, 2), (3, -2))
    gradient[0] = gradient[1] * number(-2)
    site = call(aten.conv1d.default, x, Constant(weight), None, [1], [0], [1], 1, sent=gradient)
    return case(about, site, x=x, weight=weight)


CONVOLUTION = "convolution of 3 positions, 1 channel, kernel of 2, with a gradient"
SHIFT = r"\Delta(C, r) = C + r - [C \neq 0] \frac{\sum r}{\#\{C \neq 0\}}"


def _map(a: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The convolution of the cases, without torch: (1, 1, 3) -> (1, 1, 2)."""
    (k, m) = weight.flat
    return np.array([[[a[0, 0, u] * k + a[0, 0, u + 1] * m for u in range(2)]]], dtype=object)


def _transposed(s: np.ndarray, weight: np.ndarray) -> np.ndarray:
    (k, m), (first, second) = weight.flat, s.flat
    return np.array([[[first * k, first * m + second * k, second * m]]], dtype=object)


def shifted(C: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Δ(C, r)."""
    mask = nonzero(C)
    return C + r - mask * (total(r.flat) / total(mask.flat))


def _influence(case: Case, phi: np.ndarray, over: Quotient) -> np.ndarray:
    x, size = np.abs(case.x), np.abs(case.weight)
    return x * _transposed(over(phi, _map(x, size)), size)


def _residual(case: Case, phi: np.ndarray, over: Quotient, C: np.ndarray, options: AGFOptions) -> np.ndarray | None:
    """r of eq. 13, or of the ablation that the options ask for; one channel: its mean over channels is it."""
    g = case.site.sent[GRADIENT].received.entries[case.target_of(phi)]
    gradient, seen = _transposed(g, case.weight), _transposed(g * nonzero(phi), case.weight)
    parts, regularised = [], []
    if options.numerator == "gradcam":
        regularised.append(positive(case.x * (total(seen.flat) / number(seen.size))))
    else:
        if options.factorise_input:
            regularised.append(positive(_factorised(case.x, C, options.dialect)))
        if options.input_gradient:
            regularised.append(_by_maximum(positive(case.x * gradient)))
    if regularised:
        parts.append(sum(regularised) * (_sigmoid(C) if options.regulariser else number(1)))
    if options.factorise_gradient:
        parts.append(positive(_factorised(seen, C, options.dialect)))
    if options.input_agnostic:
        ones, size = np.full(case.x.shape, number(1), dtype=object), np.abs(case.weight)
        parts.append(_transposed(over(phi, _map(ones, size)), size))
    return sum(parts) * nonzero(C) if parts else None


def _by_maximum(a: np.ndarray) -> np.ndarray:
    largest = max(a.flat, key=lambda entry: entry.value)
    return a / np.abs(largest) if largest else a * number(0)


def _sigmoid(a: np.ndarray) -> np.ndarray:
    return torch.sigmoid(Symbolic(a)).entries


def _factorised(features: np.ndarray, guide: np.ndarray, dialect: str) -> np.ndarray:
    """F(Y, φ). Of one channel R is a row, so that (RᵀR + λI)⁻¹Rᵀ = Rᵀ / (λ + RRᵀ), and R⁺ = Rᵀ / RRᵀ for λ = 0."""
    published = dialect == "reference"
    H = _sigmoid(_by_maximum(features) * number(10 if published else 1))
    sides = [(-1,) if published else (-1, 0), (1,)]
    means = []
    for side in sides:
        inside = [h for h, entry in zip(H.flat, guide.flat, strict=True) if sign(entry) in side]
        means.append(total(inside) / number(max(len(inside), 1)))
    scale = number(int(published)) + means[0] * means[0] + means[1] * means[1]
    W = [positive(H * (mean / scale)) for mean in means]
    return W[1] - W[0]


def guided_convolution(rule: Rule) -> tuple[Claim, ...]:
    """A convolution with its residual terms, those that the method's options leave."""
    options: AGFOptions = inspect.getclosurevars(rule.function).nonlocals["options"]

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        C = _influence(case, phi, over)
        r = _residual(case, phi, over, C, options)
        return [C if r is None else shifted(C, r)]

    return (
        sums(Promise.SHIFTS, _convolutions, CONVOLUTION, None, ": what r adds, its mean takes"),
        equals(
            _of_numbers,
            f"{CONVOLUTION}; symbols for relevance, numbers else",
            formula,
            "Δ(C, r) with r of eq. 13, or what options leave of it, all parts written anew",
            SHIFT,
            with_epsilon=False,
        ),
        Claim(
            "A is conserved, and does not depend on the input",
            CONVOLUTION,
            _agnostic,
            r"\sum_i A_i = \sum_j \Phi_j",
        ),
        Claim(
            "C and A are invariant under batch-norm folding",
            CONVOLUTION,
            _folded,
            r"C(s W) = C(W),\quad A(s W) = A(W)",
        ),
        *FACTORISATION,
    )


def _agnostic(rule: Rule) -> Iterator[Number]:
    for each in _convolutions():
        with dividing(EXACT):
            A = agf.input_agnostic_influence(each.site, Symbolic(each.message)).entries
        inputs = {s for x in expressions(each.x) for s in x.free_symbols}
        for found, phi in zip(A, each.message, strict=True):
            yield total(found.flat) - total(phi.flat)
            yield number(int(any(entry.free_symbols & inputs for entry in expressions(found))))


def _folded(rule: Rule) -> Iterator[Number]:
    each = _convolutions()[0]
    for factor in (3, -3):
        scaled = list(each.site.args)
        scaled[1] = Symbolic(each.weight * symbols("s", [factor])[0])
        site = replace(each.site, args=tuple(scaled))
        for part in (propagation.absolute_influence, agf.input_agnostic_influence):
            with dividing(EXACT):
                found, same = part(each.site, Symbolic(each.message)), part(site, Symbolic(each.message))
            yield from (found.entries - same.entries).flat


# A linear layer behind a flattened map of two channels with two positions


@functools.cache
def _boundaries() -> tuple[Case, ...]:
    found = []
    rows = (("a map of 2 channels, 2 positions", (2, 3, -1, 5), (2, 2)), ("a map of one position", (2, 3), (2, 1)))
    for about, values, shape in rows:
        x, weight = symbols("x", [values]), symbols("W", [[3, -1, 2, 4][: len(values)]])
        facts = {"flatten_boundary": FlattenBoundary(shape, 1)}
        site = call(aten.linear.default, x, Constant(weight), None, sent=message("g", (1,), (3,)), facts=facts)
        found.append(case(about, site, x=x, weight=weight, shape=shape))
    return tuple(found)


def flatten_boundary(rule: Rule) -> tuple[Claim, ...]:
    """Δ(C, M)."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        x, size = np.abs(case.x), np.abs(case.weight)
        C = x * (over(phi, x @ size.T) @ size)
        if case.shape[1] == 1:
            return [C]
        g = case.site.sent[GRADIENT].received.entries[case.target_of(phi)] @ case.weight
        mean = (case.x * g).reshape(case.shape).sum(0) / number(case.shape[0])
        M = np.broadcast_to(positive(mean), case.shape).reshape(1, -1) * nonzero(C)
        return [shifted(C, _by_maximum(M))]

    layer = "linear layer behind a map of 2 channels with 2 positions, and with one"
    latex = r"\Delta(C, M) = C + M - [C \neq 0] \frac{\sum M}{\#\{C \neq 0\}}"
    return (
        sums(Promise.SHIFTS, _boundaries, layer, None, ": what M adds, its mean takes"),
        equals(_boundaries, layer, formula, "Δ(C, M) (Alg. 1, l. 7-13)", latex, with_epsilon=False),
    )


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.rules.agf:guided_convolution.<locals>.guided": guided_convolution,
    "agf_fx.rules.agf:flatten_boundary": flatten_boundary,
}
