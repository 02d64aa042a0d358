"""Proofs of the rules' laws: the rules' own code, run on sympy expressions in place of numbers.

`Symbolic` answers the torch functions that the rules call, as tensors and proxies do. Divisions are exact here: the
stabiliser of `div` is set to 0. An entry counts as zero only where it is the expression 0, as it does for generic
values of the symbols; so |sign| is 1 everywhere else. Streams belong to two targets, and every law holds for each.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from torch import fx

from agf_fx.ir.facts import mark
from agf_fx.ir.types import BATCH, TensorType
from agf_fx.rules import agf, factorisation, linear_maps, numerics, propagation
from agf_fx.rules.site import Site

aten = torch.ops.aten


NO_EPSILON = numerics.Division(epsilon=0)


@pytest.fixture(autouse=True)
def _no_epsilon():
    with numerics.dividing(NO_EPSILON):
        yield


def exact(value: Any) -> Any:
    """The content of a Symbolic; a float as the rational number that it is; a list entry by entry."""
    if isinstance(value, Symbolic):
        return value.entries
    if isinstance(value, list):
        return list(map(exact, value))
    return sympy.Rational(value) if isinstance(value, float) else value


def _operator(function: Callable[..., Any], reflected: bool = False) -> Callable[..., Symbolic]:
    def method(self: Symbolic, other: Any = None) -> Symbolic:
        operands = [self.entries] if other is None else [self.entries, exact(other)]
        return Symbolic(function(*reversed(operands) if reflected else operands))

    return method


_same = np.frompyfunc(lambda a, b: sympy.Integer(a == b), 2, 1)  # same expression
_other = np.frompyfunc(lambda a, b: sympy.Integer(a != b), 2, 1)
_at_most = np.frompyfunc(lambda a, b: sympy.Integer(bool(sympy.simplify(a - b) <= 0)), 2, 1)


class Symbolic:
    """An array of sympy expressions that can stand in for a tensor."""

    def __init__(self, entries: Any) -> None:
        self.entries = np.array(entries, dtype=object)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Symbolic:
        found = FUNCTIONS[function](*map(exact, args))
        return found if isinstance(found, int) else cls(found)

    __add__, __radd__ = _operator(operator.add), _operator(operator.add, reflected=True)
    __sub__, __rsub__ = _operator(operator.sub), _operator(operator.sub, reflected=True)
    __mul__, __rmul__ = _operator(operator.mul), _operator(operator.mul, reflected=True)
    __truediv__, __neg__ = _operator(operator.truediv), _operator(operator.neg)
    __eq__, __ne__, __le__ = _operator(_same), _operator(_other), _operator(_at_most)
    __hash__ = None


def _scatter(a: np.ndarray, dim: int, index: np.ndarray, value: Any) -> np.ndarray:
    scattered = a.copy()
    np.put_along_axis(scattered, index.astype(int), value, dim)
    return scattered


def _softmax(a: np.ndarray, dim: int) -> np.ndarray:
    powers = _each(sympy.exp)(a)
    return powers / powers.sum(dim, keepdims=True)


def _sizes(a: np.ndarray, shape: list[int]) -> tuple[int, ...]:
    """The shape that `expand` asks for; -1 keeps a size."""
    kept = (1,) * (len(shape) - a.ndim) + a.shape
    return tuple(old if new == -1 else new for old, new in zip(kept, shape, strict=True))


def _each(function: Callable[[Any], Any]) -> Callable[[np.ndarray], np.ndarray]:
    return np.frompyfunc(function, 1, 1)


def _abs(a: sympy.Expr) -> sympy.Expr:
    """|a|, where the |sign| of a value that is not the expression 0 is 1."""
    signs = sympy.Mul.make_args(a)
    return sympy.S.One if all(sign in (1, -1) or isinstance(sign, sympy.sign) for sign in signs) else sympy.Abs(a)


def _extreme(function: Callable[..., Any]) -> Callable[[np.ndarray, list[int], bool], np.ndarray]:
    return lambda a, dims, keep: np.frompyfunc(function, 2, 1).reduce(a, dims[0], keepdims=keep)


FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.abs: _each(_abs),
    torch.amax: _extreme(sympy.Max),
    torch.amin: _extreme(sympy.Min),
    torch.clamp_max: np.frompyfunc(sympy.Min, 2, 1),
    torch.clamp_min: np.frompyfunc(sympy.Max, 2, 1),
    torch.exp: _each(sympy.exp),
    torch.gather: lambda a, dim, index: np.take_along_axis(a, index.astype(int), dim),
    torch.masked_fill: lambda a, mask, value: np.where(mask.astype(bool), value, a),
    torch.matmul: np.matmul,
    torch.scatter: _scatter,
    torch.sign: _each(sympy.sign),
    torch.softmax: _softmax,
    torch.transpose: np.swapaxes,
    torch.sum: lambda a, dims, keep: a.sum(tuple(dims), keepdims=keep),
    torch.unsqueeze: np.expand_dims,
    torch.where: lambda mask, a, b: np.where(mask.astype(bool), a, b),
    torch.zeros_like: lambda a: np.full(a.shape, sympy.S.Zero),
    aten.expand.default: lambda a, shape: np.broadcast_to(a, _sizes(a, shape)),
    aten.linear.default: lambda x, weight: x @ weight.T,
    aten.add.Tensor: operator.add,
    aten.matmul.default: np.matmul,
    aten.mul.Tensor: operator.mul,
    aten.softmax.int: lambda a, dim, _: _softmax(a, dim),
    aten.sub.Tensor: operator.sub,
    aten.new_ones.default: lambda _, shape: np.full(shape, sympy.S.One),
    aten.sym_size.int: lambda a, dim: a.shape[dim],
}


# A small layer: three inputs, two outputs; and two targets

INPUTS, OUTPUTS, TARGETS = 3, 2, 2


def symbols(name: str, *shape: int, **assumptions: bool) -> np.ndarray:
    flat = sympy.symbols(f"{name}:{np.prod(shape)}", **assumptions)
    return np.array(flat, dtype=object).reshape(shape)


def layer(x: np.ndarray, weight: np.ndarray) -> Site:
    """A linear layer on one sample, explained for all targets."""
    graph = fx.Graph()
    nodes = graph.placeholder("x"), graph.placeholder("weight")
    nodes[0].meta["type"] = TensorType((BATCH, INPUTS), torch.float64)
    call = graph.call_function(aten.linear.default, (*nodes, None))
    return Site(call, (Symbolic(x), Symbolic(weight), None), Symbolic(x @ weight.T), TARGETS)


def relevance(rule: Callable[..., Any], x: np.ndarray, weight: np.ndarray, phi: np.ndarray) -> np.ndarray:
    found = rule(layer(x, weight), Symbolic(phi))
    return (found[0] if isinstance(found, tuple) else found).entries


def z_box(site: Site, phi: Symbolic) -> tuple[Symbolic, ...]:
    return propagation.z_box.divided(NO_EPSILON)(site, phi)


def is_conserved(found: np.ndarray) -> bool:
    """Whether each target has as much relevance at the input as in PHI."""
    assert found.shape == (TARGETS, 1, INPUTS)
    return is_zero((found.sum(-1) - PHI.sum(-1)).flat)


def is_zero(expressions: Iterable[sympy.Expr]) -> bool:
    return all(sympy.cancel(sympy.together(expression)) == 0 for expression in expressions)


PHI = symbols("Phi", TARGETS, 1, OUTPUTS, real=True)
ANY_X, ANY_W = symbols("x", 1, INPUTS, real=True), symbols("W", OUTPUTS, INPUTS, real=True)


# Conservation


def test_input_influence_is_conserved():
    x, weight = symbols("x", 1, INPUTS, positive=True), symbols("W", OUTPUTS, INPUTS, positive=True)
    C = relevance(propagation.absolute_influence, x, weight, PHI)
    for k in range(TARGETS):
        formula = sum(x[0, 0] * weight[j, 0] * PHI[k, 0, j] / (weight[j] @ x[0]) for j in range(OUTPUTS))  # eq. 9
        assert is_zero([C[k, 0, 0] - formula])
    assert is_conserved(C)


def test_input_influence_of_any_sign_is_conserved():
    assert is_conserved(relevance(propagation.absolute_influence, ANY_X, ANY_W, PHI))


def test_input_agnostic_influence_is_conserved():
    A = relevance(agf.input_agnostic_influence, ANY_X, ANY_W, PHI)
    assert not A[0, 0, 0].free_symbols & set(ANY_X.flat)
    assert is_conserved(A)


def test_z_box_is_conserved():
    low, *steps = sympy.symbols("low step1 step2", positive=True)
    x = np.array([[low, low + steps[0], low + sum(steps)]], dtype=object)
    positive, negative = symbols("p", 3, positive=True), symbols("n", 3, negative=True)
    weight = np.array([[positive[0], negative[0], positive[1]], [negative[1], negative[2], positive[2]]], dtype=object)
    found = relevance(z_box, x, weight, PHI)
    z = (x - np.where([[entry.is_positive for entry in row] for row in weight], x[0, 0], x[0, 2])) * weight
    assert found[0, 0, 1].free_symbols >= {low, *steps, *positive, *negative}
    for k in range(TARGETS):
        assert is_zero(found[k, 0] - (z / z.sum(1, keepdims=True)).T @ PHI[k, 0])
    assert is_conserved(found)


def test_delta_shift_keeps_the_sum_of_each_target():
    C, r = symbols("C", TARGETS, 1, 2, 3, real=True), symbols("r", TARGETS, 1, 2, 3, real=True)
    C[0, 0, 0, 1] = C[0, 0, 1, 2] = r[0, 0, 0, 1] = r[0, 0, 1, 2] = sympy.S.Zero
    shifted = numerics.delta_shift(Symbolic(C), Symbolic(r), 3).entries
    assert shifted[0, 0, 0, 0] == C[0, 0, 0, 0] + r[0, 0, 0, 0] - r[0].sum() / 4
    assert shifted[1, 0, 0, 0] == C[1, 0, 0, 0] + r[1, 0, 0, 0] - r[1].sum() / 6
    assert shifted[0, 0, 0, 1] == 0
    assert is_zero((shifted - C).sum((1, 2, 3)).flat)


# Two signals, and softmax


def call(target: Callable[..., Any], *values: np.ndarray, options: tuple = ()) -> Site:
    """A call on signals of one sample, explained for all targets."""
    graph = fx.Graph()
    nodes = [graph.placeholder(f"x{i}") for i in range(len(values))]
    for node, value in zip(nodes, values, strict=True):
        node.meta = {"type": TensorType((BATCH, *value.shape[1:]), torch.float64), "depends_on_images": True}
    node = graph.call_function(target, (*nodes, *options))
    output = FUNCTIONS[target](*values, *options)
    node.meta["type"] = TensorType((BATCH, *output.shape[1:]), torch.float64)
    return Site(node, (*map(Symbolic, values), *options), Symbolic(output), TARGETS)


A, B = symbols("a", 1, 2, 3, real=True), symbols("b", 1, 2, 3, real=True)
STREAM = symbols("Psi", TARGETS, 1, 2, 3, real=True)


def test_a_product_halves_relevance():
    for found in propagation.bilinear.divided(NO_EPSILON)(call(aten.mul.Tensor, A, B), Symbolic(STREAM)):
        assert is_zero((found.entries - STREAM / 2).flat)


def test_a_matrix_product_halves_relevance():
    phi = symbols("Psi", TARGETS, 1, 2, 2, real=True)
    columns = B.swapaxes(1, 2)
    left, right = propagation.bilinear.divided(NO_EPSILON)(call(aten.matmul.default, A, columns), Symbolic(phi))
    y = A @ columns
    for k in range(TARGETS):
        formula = sum(A[0, 0, 1] * columns[0, 1, p] * phi[k, 0, 0, p] / (2 * y[0, 0, p]) for p in range(2))  # eq. 15
        assert is_zero([left.entries[k, 0, 0, 1] - formula])
    for found in (left, right):
        assert is_zero((found.entries.sum((1, 2, 3)) - phi.sum((1, 2, 3)) / 2).flat)


@pytest.mark.parametrize("first", [True, False])
def test_constant_attention_keeps_all_relevance_with_the_values(first):
    weights, phi = symbols("w", 1, 2, 2, positive=True), symbols("Psi", TARGETS, 1, 2, 3, real=True)
    values = (weights, A) if first else (A.swapaxes(1, 2), weights)
    site = call(aten.matmul.default, *values)
    mark(site.node, attention=site.node.args[not first].name)
    phi = phi if first else phi.swapaxes(2, 3)
    found = propagation.constant_attention.divided(NO_EPSILON)(site, Symbolic(phi))
    assert found[not first] is None
    assert is_zero((found[first].entries.sum((1, 2, 3)) - phi.sum((1, 2, 3))).flat)


def test_a_sum_by_size_is_conserved():
    for target in (aten.add.Tensor, aten.sub.Tensor):
        left, right = propagation.merge_by_size.divided(NO_EPSILON)(call(target, A, B), Symbolic(STREAM))
        assert is_zero((left.entries + right.entries - STREAM).flat)
        share = sympy.Abs(A[0, 1, 2]) / (sympy.Abs(A[0, 1, 2]) + sympy.Abs(B[0, 1, 2]))
        assert is_zero([left.entries[1, 0, 1, 2] - share * STREAM[1, 0, 1, 2]])


def test_softmax_is_the_first_order_expansion():
    x, phi = symbols("x", 1, 3, positive=True), symbols("Psi", TARGETS, 1, 3, real=True)
    site = call(aten.softmax.int, x, options=(1, None))
    (found,) = propagation.softmax.divided(NO_EPSILON)(site, Symbolic(phi))
    s = site.y.entries[0]
    for k, i in itertools.product(range(TARGETS), range(3)):
        expansion = sum(x[0, i] * sympy.diff(s[j], x[0, i]) * phi[k, 0, j] / s[j] for j in range(3))
        assert is_zero([found.entries[k, 0, i] - expansion])


def test_softmax_hands_masked_scores_nothing():
    x, phi = numbers((1, 2, 3)), symbols("Psi", TARGETS, 1, 3, real=True)
    x[0, 1] = -sympy.oo
    site = call(aten.softmax.int, x, options=(1, None))
    assert site.y.entries[0, 1] == 0
    (found,) = propagation.softmax.divided(NO_EPSILON)(site, Symbolic(phi))
    assert (found.entries[:, :, 1] == 0).all()
    assert (found.entries[:, :, 0] != 0).all()


# Batch-norm folding scales every output channel of a layer's weight


@pytest.mark.parametrize("rule", [propagation.absolute_influence, agf.input_agnostic_influence])
@pytest.mark.parametrize("sign", [1, -1])
def test_influence_does_not_depend_on_the_scale_of_an_output(rule, sign):
    scale = sign * symbols("s", OUTPUTS, 1, positive=True)
    assert is_zero((relevance(rule, ANY_X, ANY_W * scale, PHI) - relevance(rule, ANY_X, ANY_W, PHI)).flat)


def numbers(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array([[sympy.Integer(value) for value in row] for row in rows], dtype=object)


@pytest.mark.parametrize(("scale", "invariant"), [((2, 5), True), ((-2, 5), False)])
def test_z_box_depends_on_the_sign_of_the_scale_of_an_output(scale, invariant):
    x, weight, phi = numbers((1, -2, 3)), numbers((2, -1, 4), (-3, 1, 2)), numbers((1, 2), (-2, 5))[:, None]
    scaled = weight * numbers(scale).T
    assert (relevance(z_box, x, scaled, phi) == relevance(z_box, x, weight, phi)).all() == invariant


# The 2×2 systems of the factorisation


def solve(function: Callable[..., Any], R: sympy.Matrix, H: sympy.Matrix) -> sympy.Matrix:
    R_b, R_f = (Symbolic(np.array(R.col(k)).reshape(1, 1, -1)) for k in range(2))
    rows = function(R_b, R_f, Symbolic(np.array(H).reshape(1, *H.shape)))
    return sympy.Matrix([row.entries[0, 0].tolist() for row in rows])


H = sympy.Matrix(3, 2, sympy.symbols("h:6", real=True))


def test_ridge_is_the_inverse_of_the_regularised_matrix():
    R = sympy.Matrix(3, 2, sympy.symbols("r:6", real=True))
    expected = (R.T * R + sympy.eye(2)).inv() * R.T * H
    assert is_zero(sympy.nsimplify(entry) for entry in solve(factorisation._ridge, R, H) - expected)


REGULAR = sympy.Matrix([[1, 2], [3, -1], [2, 2]])


@pytest.mark.parametrize("R", [REGULAR, REGULAR * sympy.diag(1, 0), REGULAR * sympy.diag(0, 1), REGULAR * 0])
def test_least_squares_is_the_pseudo_inverse(R):
    assert is_zero(solve(factorisation._least_squares, R, H) - R.pinv() * H)


def test_least_squares_is_the_pseudo_inverse_where_foreground_and_background_are_parallel():
    column = sympy.Matrix(sympy.symbols("r:3", positive=True))
    R = sympy.Matrix.hstack(column, 3 * column)
    assert is_zero(solve(factorisation._least_squares, R, H) - R.pinv() * H)


# The softened target, differentiated by sympy

LOGITS = sympy.symbols("y:3", real=True)


def softened_target(target: int, widest: int) -> sympy.Expr:
    """ŷ_t where σ is reached at the logit ``widest`` alone."""
    y_t = LOGITS[target]
    sigma = sympy.Abs(LOGITS[widest] - y_t)
    scores = [sympy.exp(y_t * sympy.exp(-((y - y_t) ** 2) / (2 * sigma**2))) for y in LOGITS]
    return scores[target] / sum(scores)


@pytest.mark.parametrize(
    "point", ["1 5/2 -1/3", "-2 -1/7 1", "0 3 1", "-3/2 -4 -2"], ids=lambda point: point.replace("/", ":")
)
def test_softened_target_gradient_is_the_derivative(point):
    y = [sympy.Rational(number) for number in point.split()]
    found = agf.softened_target_gradient(Symbolic([y]), Symbolic([[0], [1], [2]])).entries
    assert found.shape == (3, 1, 3)
    for target, (gradient,) in enumerate(found):
        widest = max(range(3), key=lambda i: abs(y[i] - y[target]))
        function, at = softened_target(target, widest), dict(zip(LOGITS, y, strict=True))
        for logit, closed_form in zip(LOGITS, gradient, strict=True):
            assert abs(sympy.N(closed_form - function.diff(logit).subs(at), 40)) < sympy.Float("1e-35")


# The adjoint of a convolution: a transposed convolution with as much output padding as its strides left unread

SIZE, RESULT, KERNEL, STRIDE, DILATION = sympy.symbols("x y k t d", integer=True, positive=True)
PADDING, MORE = sympy.symbols("p o", integer=True, nonnegative=True)
SPAN = SIZE + 2 * PADDING - DILATION * (KERNEL - 1) - 1  # how far the first entry of a window can move


def test_output_padding_gives_back_the_size_of_the_input():
    size = (RESULT - 1) * STRIDE - 2 * PADDING + DILATION * (KERNEL - 1) + 1 + MORE  # of a transposed convolution
    (padding,) = sympy.solve(size - SIZE, MORE)
    assert is_zero([linear_maps.unread(SIZE, RESULT, KERNEL, STRIDE, PADDING, DILATION) - padding])


def test_output_padding_is_at_least_0_and_below_the_stride():
    outputs = sympy.floor(SPAN / STRIDE) + 1  # of the convolution
    padding = linear_maps.unread(SIZE, outputs, KERNEL, STRIDE, PADDING, DILATION)
    assert sympy.simplify(padding - sympy.Mod(SPAN, STRIDE).rewrite(sympy.floor)) == 0
    part = sympy.frac(SPAN / STRIDE)
    assert sympy.simplify(padding / STRIDE - part.rewrite(sympy.floor)) == 0
    assert (part >= 0) is sympy.true
    assert (part < 1) is sympy.true
