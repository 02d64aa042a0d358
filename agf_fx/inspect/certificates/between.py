"""Certificates of what stands between layers: sums, averages, maxima, products, attention, norms, movement."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import sympy
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.laws import (
    CONSERVED,
    SUM_IN,
    Formula,
    Quotient,
    differences,
    equals,
    jacobian,
    nonzero,
    of_constants,
    quotient,
    sums,
    transposed,
)
from agf_fx.inspect.certificates.layers import EPSILON, Case, Constant, call, case, messages
from agf_fx.inspect.certificates.symbolic import Number, Symbolic, _each, number, symbols, total
from agf_fx.rules.numerics import Division
from agf_fx.rules.rule import Promise, Rule

aten = torch.ops.aten
Messages = list[np.ndarray | None]


def logs(powers: np.ndarray) -> np.ndarray:
    """Values whose exponentials are these symbols."""
    return aten.log.default(Symbolic(powers)).entries


def pair(first: tuple, second: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Two signals (1, n)."""
    return symbols("a", [first]), symbols("b", [second])


# Everything to every entry, or where it came from


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
        sums(_activations, layer, None, str(rule.promise)),
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
        sums(_masked, layer, lost, "conserves but for entries that are 0 whatever the input is", _SAVE_CONSTANTS),
        equals(_masked, layer, formula, "relevance unchanged where the constant is not 0", r"\Phi^{\mathrm{in}}_i = [c_i \neq 0]\,\Phi_i"),
    )


_SAVE_CONSTANTS = rf"{SUM_IN} = \sum_{{j:\, y_j \text{{ depends on }} x}} \Phi_j"


@functools.cache
def movements() -> tuple[Case, ...]:
    """Data movement, with and without constants among what is moved."""
    x, maps, c = symbols("x", [[2, -3, 5]]), symbols("x", [[[2, -3, 5], [7, 1, -4]]]), Constant(symbols("c", [[3]]))
    mask, index = (Constant(np.array(places)) for places in ([[1, 0, 1]], [2, 0, 2]))
    mask, index = (Constant(_each(number)(a.values)) for a in (mask, index))
    calls = (
        ("reshape", call(aten.reshape.default, maps, [1, 6])),
        ("permute", call(aten.permute.default, maps, [0, 2, 1])),
        ("cat with a constant", call(aten.cat.default, [x, c], 1)),
        ("expand", call(aten.expand.default, symbols("x", [[[2], [-3]]]), [-1, 2, 3])),
        ("slice with a step", call(aten.slice.Tensor, symbols("x", [[2, -3, 5, 7, 1]]), 1, 1, 5, 2)),
        ("select", call(aten.select.int, maps, 2, 1)),
        ("index_select that repeats", call(aten.index_select.default, x, 1, index)),
        ("roll", call(aten.roll.default, maps, [1], [2])),
        ("padding and cropping", call(aten.constant_pad_nd.default, x, [2, -1], 0)),
        ("masked_fill", call(aten.masked_fill.Scalar, x, mask, 0)),
        ("where of a signal and a constant", call(aten.where.self, mask, x, Constant(symbols("c", [[3, 1, 2]])))),
    )
    return tuple(case(about, site) for about, site in calls)


MOVEMENT = "reshape, permute, cat, expand, slice, select, index_select, roll, pad, masked_fill, where of 3 to 6 entries"


def move_back(rule: Rule) -> tuple[Claim, ...]:
    """The adjoint of data movement."""

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        return of_constants(case, phi)

    return (
        sums(movements, MOVEMENT, lost, "conserves but for entries of the output that are none of the input", _SAVE_CONSTANTS),
        transposed(movements, MOVEMENT, "every entry goes back where it came from: the transposed Jacobian"),
    )


# Shares


@functools.cache
def _shared() -> tuple[Case, ...]:
    a, b = pair((2, -3, 0), (5, 1, 0))
    x = symbols("x", [[2, -3, 5]])
    return (
        case("a sum, and one of 0 and 0", call(aten.add.Tensor, a, b)),
        case("a difference", call(aten.sub.Tensor, a, b)),
        case("a sum over entries", call(aten.sum.dim_IntList, symbols("x", [[[2, -3], [5, 1]]]), [2])),
        case("a mean", call(aten.mean.dim, x, [1])),
        case("ReLU", call(aten.relu.default, x)),
    )


SHARED = "sum and difference of two signals, sum, mean and ReLU of 2 to 4 entries"


def proportional(rule: Rule) -> tuple[Claim, ...]:
    """x ⊙ fᵀ(Φ / f(x)), for f homogeneous of degree 1."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        pulled = jacobian(case, over(phi, case.site.y.entries))
        return [x.entries * part for x, part in zip(case.site.operands, pulled, strict=True)]

    latex = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{x_i\, \partial y_j / \partial x_i}{y_j} \Phi_j"
    return (
        sums(_shared, SHARED, None, f"{rule.promise}, where f is linear or a ReLU"),
        equals(_shared, SHARED, formula, "each operand by its share of the output", latex),
    )


@functools.cache
def _selections() -> tuple[Case, ...]:
    return (
        case("maxima, one of them 0", call(aten.amax.default, symbols("x", [[[2, 3], [-1, -4], [-2, 0]]]), [2])),
        case("ReLU, open and closed", call(aten.relu.default, symbols("x", [[2, -3, 5]]))),
    )


SELECTIONS = "maxima of pairs, and ReLU, of 3 to 6 entries"


def selective(rule: Rule) -> tuple[Claim, ...]:
    """`proportional` for what selects."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        y = case.site.y.entries
        return [_selected(case, over(phi, y) * y)]

    return (
        sums(_selections, SELECTIONS, None, f"{rule.promise}, in exact division: what falls on 0 goes to the other entries"),
        equals(
            _selections,
            SELECTIONS,
            formula,
            "all to the entry that was selected",
            r"\Phi^{\mathrm{in}}_i = \sum_{j:\, y_j = x_i} \Phi_j",
        ),
        _masks(formula),
    )


def _masks(formula: Formula) -> Claim:
    """In the published division: the same formula, for a rule that does not count as dividing."""
    division = Division("one-sided", EPSILON)

    def residuals(rule: Rule) -> Iterator[Number]:
        for each in _selections():
            found = messages(rule, each, division)
            for target, phi in enumerate(each.message):
                yield from differences(found, formula(each, phi, quotient(division)), target)

    says = f"{Promise.MASKS}, in the published division: an output of 0 hands on nothing"
    latex = r"\Phi^{\mathrm{in}}_i = \sum_{j:\, y_j = x_i} \frac{y_j}{y_j + \varepsilon} \Phi_j"
    return Claim(says, SELECTIONS, residuals, latex)


def _selected(case: Case, phi: np.ndarray) -> np.ndarray:
    """A message at the entries that were selected, by comparing with the output."""
    x, y = case.site.x.entries, case.site.y.entries
    found = np.full(x.shape, number(0), dtype=object)
    for index in np.ndindex(*y.shape):
        row = x[index]
        if isinstance(row, np.ndarray):
            place = next(i for i, entry in enumerate(row) if entry.expression == y[index].expression)
            found[(*index, place)] = phi[index]
        elif y[index]:
            found[index] = phi[index]
    return found


def winner(rule: Rule) -> tuple[Claim, ...]:
    """Maxima by their gradient."""

    def cases() -> tuple[Case, ...]:
        return _selections()[:1]

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        return [_selected(case, phi)]

    latex = r"\Phi^{\mathrm{in}}_i = \sum_{j:\, y_j = x_i} \Phi_j"
    return (
        sums(cases, "maxima of 3 pairs", None, str(rule.promise)),
        equals(cases, "maxima of 3 pairs", formula, "all to the entry that was selected", latex),
    )


@functools.cache
def _averages() -> tuple[Case, ...]:
    x = symbols("x", [[[2, -3], [5, 1], [0, 0]]])
    return (case("means, one of them of zeros", call(aten.mean.dim, x, [2])),)


def average(rule: Rule) -> tuple[Claim, ...]:
    """By sizes, with the weights of a mean."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        sizes = np.abs(case.site.x.entries) / number(2)
        return [sizes * over(phi, sizes.sum(2))[..., None]]

    latex = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{|x_i| / n}{\sum_k |x_k| / n} \Phi_j"
    return (
        sums(_averages, "means of 3 pairs", None, str(rule.promise)),
        equals(_averages, "means of 3 pairs", formula, "each entry by its size", latex),
    )


@functools.cache
def _sums() -> tuple[Case, ...]:
    a, b = pair((2, -3, 0), (5, 1, 0))
    return case("a sum", call(aten.add.Tensor, a, b)), case("a difference", call(aten.sub.Tensor, a, b))


def merge_by_size(rule: Rule) -> tuple[Claim, ...]:
    """|a| / (|a| + |b|)."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        sizes = [np.abs(x.entries) for x in case.site.operands]
        return [size * over(phi, sizes[0] + sizes[1]) for size in sizes]

    layer, latex = "sum and difference of two signals of 3 entries", r"\Phi_a = \frac{|a|}{|a| + |b|} \Phi"
    return (
        sums(_sums, layer, None, str(rule.promise)),
        equals(_sums, layer, formula, "each term by its size", latex),
    )


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
        sums(_gates, layer, None, str(rule.promise)),
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
        sums(_products, layer, None, str(rule.promise)),
        equals(_products, layer, formula, "half of the relevance to either factor, by its share (eq. 15)", latex),
        _halves(),
    )


def _halves() -> Claim:
    def residuals(rule: Rule) -> Iterator[Number]:
        for each in _products():
            for found in messages(rule, each):
                for target, phi in enumerate(each.message):
                    yield total(found[target].flat) * 2 - total(phi.flat)

    return Claim("either factor gets half of the sum", "the same", residuals, r"\sum \Phi^a = \sum \Phi^b = \tfrac12 \sum \Phi")


def jacobian_of_product(case: Case, message: np.ndarray) -> Messages:
    """The transposed derivatives of a product, written out."""
    a, b = (x.entries for x in case.site.operands)
    if case.site.node.target is aten.mul.Tensor:
        return [message * b, message * a]
    return [message @ b.swapaxes(-2, -1), a.swapaxes(-2, -1) @ message]


@functools.cache
def _joint() -> tuple[Case, ...]:
    a, b = pair((3, -3, -5), (4, 4, 12))
    return case("√(a² + b²)", call(aten.hypot.default, a, b)), case("a b", call(aten.mul.Tensor, *pair((2, -3), (5, 1))))


def by_influence(rule: Rule) -> tuple[Claim, ...]:
    """By the sizes of input times derivative."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> Messages:
        ones = np.full(phi.shape, number(1), dtype=object)
        slopes = _hypot_slopes(case) if case.site.node.target is aten.hypot.default else jacobian_of_product(case, ones)
        sizes = [np.abs(x.entries * slope) for x, slope in zip(case.site.operands, slopes, strict=True)]
        return [size * over(phi, sizes[0] + sizes[1]) for size in sizes]

    latex = r"\Phi_a = \frac{|a\, \partial f / \partial a|}{|a\, \partial f / \partial a| + |b\, \partial f / \partial b|} \Phi"
    layer = "√(a² + b²) and a b of 2 to 3 entries"
    return (
        sums(_joint, layer, None, str(rule.promise)),
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
        sums(_log_sums, layer, None, str(rule.promise)),
        equals(_log_sums, layer, formula, "each entry by its weight", latex),
    )


@functools.cache
def _attention() -> tuple[Case, ...]:
    weights, left, right = symbols("A", [[[2, 3], [0, 1]]]), symbols("V", [[[1, -4], [-2, 3]]]), symbols("V", [[[1, 4], [-2, 3]]])
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
        sums(_attention, layer, None, str(rule.promise)),
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


# Normalisations whose scale is a constant


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
        eye = _each(number)(np.eye(n))
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
    return (
        sums(cases, layer, lost, f"{rule.promise}" + (", which take exactly their share" if bias else ""), law),
        equals(cases, layer, formula, "each entry by its share of the output, σ a constant", latex),
    )


CLAIMS: dict[str, Callable[[Rule], tuple[Claim, ...]]] = {
    f"agf_fx.rules.propagation:{function.__name__}": function
    for function in (
        *(pass_through, scaled, move_back, proportional, selective, average, merge_by_size, gated, bilinear),
        *(by_influence, by_weights, constant_attention, softmax),
    )
} | {
    "agf_fx.rules.lrp:winner": winner,
    "agf_fx.rules.norms:constant_scale.<locals>.constant_scale_": constant_scale,
}
