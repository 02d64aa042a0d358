"""Arrays of symbolic numbers that stand in for tensors, so that a rule's own code computes formulas.

A number is an expression, and the value of it at one point. What code asks of a number, its sign, whether it is 0, which
of two is larger, is answered at that point, and the expression goes on as it does there. So an identity between results
holds wherever all of these questions have the same answers, which is an open set around the point; a handful of points
covers the cases that a rule tells apart. A point at which a question has no answer, because the value is 0 and the
expression is not, is refused.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import sympy
import torch

from agf_fx.inspect.certificates.vanishing import vanishes

aten = torch.ops.aten

NEAR = 1e-9
"""Of values: what lies so near 0 must be 0."""


def _of_numbers(method: Callable[[Number, Number], Number]) -> Callable[[Number, Any], Any]:
    """Let an array combine with a number entry by entry."""

    @functools.wraps(method)
    def combined(self: Number, other: Any) -> Any:
        return NotImplemented if isinstance(other, np.ndarray) else method(self, number(other))

    return combined


class Number:
    """An expression, and its value at a point."""

    __slots__ = ("expression", "value")

    def __init__(self, expression: sympy.Expr | int, value: float) -> None:
        self.expression, self.value = sympy.sympify(expression), value

    @_of_numbers
    def __add__(self, other: Number) -> Number:
        return Number(self.expression + other.expression, self.value + other.value)

    @_of_numbers
    def __sub__(self, other: Number) -> Number:
        return Number(self.expression - other.expression, self.value - other.value)

    @_of_numbers
    def __mul__(self, other: Number) -> Number:
        if not (self.expression and other.expression):  # also of what is infinite, as of masked scores
            return Number(0, 0.0)
        return Number(self.expression * other.expression, self.value * other.value)

    @_of_numbers
    def __truediv__(self, other: Number) -> Number:
        if not sign(other):
            raise ZeroDivisionError(f"{self} / {other}")
        return Number(self.expression / other.expression, self.value / other.value)

    @_of_numbers
    def __pow__(self, other: Number) -> Number:
        return Number(self.expression**other.expression, self.value**other.value)

    def __neg__(self) -> Number:
        return Number(-self.expression, -self.value)

    @_of_numbers
    def __radd__(self, other: Number) -> Number:
        return other + self

    @_of_numbers
    def __rsub__(self, other: Number) -> Number:
        return other - self

    @_of_numbers
    def __rmul__(self, other: Number) -> Number:
        return other * self

    @_of_numbers
    def __rtruediv__(self, other: Number) -> Number:
        return other / self

    def __abs__(self) -> Number:
        return -self if sign(self) < 0 else self

    def __bool__(self) -> bool:
        return bool(sign(self))

    def __int__(self) -> int:
        return int(self.value)

    def __repr__(self) -> str:
        return str(self.expression)


def number(value: Any) -> Number:
    """A Number as it is; anything else as the rational number that it is."""
    if isinstance(value, Number):
        return value
    return Number(sympy.sympify(value) if isinstance(value, sympy.Basic) else sympy.Rational(value), float(value))


def is_zero(a: Number) -> bool:
    """Whether an expression is 0, whatever its symbols."""
    near = math.isnan(a.value) or abs(a.value) < NEAR * 1e3  # not a number: nobody has asked for the value
    return near and vanishes(a.expression)


def sign(a: Number) -> int:
    """-1, 0 or 1.

    Raises:
        ValueError: the point lies where the sign changes.
    """
    if abs(a.value) > NEAR:
        return 1 if a.value > 0 else -1
    if vanishes(a.expression):
        return 0
    raise ValueError(f"{a.expression} is 0 at the point, but not around it; choose another point.")


class Symbolic:
    """An array of numbers that answers the functions of torch that rules call."""

    def __init__(self, entries: Any) -> None:
        array = np.array(entries, dtype=object)
        self.entries = _each(number)(array) if array.ndim else np.array(number(array.item()), dtype=object)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if function not in FUNCTIONS:
            raise NotImplementedError(f"{function} on symbols: add it to agf_fx.inspect.certificates.symbolic.FUNCTIONS")
        return _wrapped(FUNCTIONS[function](*map(exact, args), **(kwargs or {})))

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes."""
        return self.entries.shape

    def dim(self) -> int:
        """The number of dimensions."""
        return self.entries.ndim

    def __getitem__(self, index: Any) -> Symbolic:
        return Symbolic(self.entries[index])

    def __neg__(self) -> Symbolic:
        return Symbolic(-self.entries)

    __hash__ = object.__hash__  # as that of a tensor


def _wrapped(found: Any) -> Any:
    """Arrays as Symbolics; sizes as they are."""
    if isinstance(found, tuple):
        return tuple(map(_wrapped, found))
    return found if isinstance(found, int) else Symbolic(found)


def exact(value: Any) -> Any:
    """The content of a Symbolic, also in lists; anything else as it is."""
    if isinstance(value, Symbolic):
        return value.entries
    if isinstance(value, list):
        return [exact(item) for item in value]
    return value


def _operator(function: Callable[[Any, Any], Any], reflected: bool = False) -> Callable[..., Symbolic]:
    def method(self: Symbolic, other: Any) -> Symbolic:
        operands = [self.entries, exact(other)]
        return Symbolic(function(*reversed(operands) if reflected else operands))

    return method


def _each(function: Callable[..., Any], count: int = 1) -> Callable[..., Any]:
    """A function of numbers as one of arrays, also of arrays without dimensions."""
    apply = np.frompyfunc(function, count, 1)

    def entrywise(*arrays: Any) -> Any:
        found = apply(*arrays)
        return found if isinstance(found, np.ndarray) else np.array(found, dtype=object)

    return entrywise


def _comparison(holds: Callable[[int], bool]) -> Callable[..., Any]:
    return _each(lambda a, b: Number(int(holds(sign(number(a) - b))), float(holds(sign(number(a) - b)))), 2)


_COMPARISONS = {
    "__eq__": _comparison(lambda s: s == 0),
    "__ne__": _comparison(lambda s: s != 0),
    "__lt__": _comparison(lambda s: s < 0),
    "__le__": _comparison(lambda s: s <= 0),
    "__gt__": _comparison(lambda s: s > 0),
    "__ge__": _comparison(lambda s: s >= 0),
}
for _name, _function in _COMPARISONS.items():
    setattr(Symbolic, _name, _operator(_function))
for _name in ("add", "sub", "mul", "truediv"):
    setattr(Symbolic, f"__{_name}__", _operator(getattr(operator, _name)))
    setattr(Symbolic, f"__r{_name}__", _operator(getattr(operator, _name), reflected=True))


# Functions of every entry


def function_of(symbolic: Callable[[sympy.Expr], sympy.Expr], numeric: Callable[[float], float]) -> Callable[..., Any]:
    """A function of every entry, from one of expressions and one of values."""
    return _each(lambda a: Number(symbolic(a.expression), numeric(a.value)))


def _greater(a: Any, b: Any) -> Number:
    a, b = number(a), number(b)
    if math.isinf(a.value) or math.isinf(b.value):
        return a if a.value >= b.value else b
    return a if sign(a - b) >= 0 else b


def _less(a: Any, b: Any) -> Number:
    return -_greater(-number(a), -number(b))


def _root(a: sympy.Expr) -> sympy.Expr:
    return sympy.sqrt(sympy.factor_terms(sympy.expand(a)))


def _sigmoid(a: sympy.Expr) -> sympy.Expr:
    return 1 / (1 + sympy.exp(-a))


_signs = _each(lambda a: number(sign(a)))
_exp = function_of(sympy.exp, math.exp)
_log = function_of(sympy.log, math.log)
_sqrt = function_of(_root, math.sqrt)
_rsqrt = function_of(lambda a: 1 / _root(a), lambda a: 1 / math.sqrt(a))
_reciprocal = _each(lambda a: 1 / a)
_relu = _each(lambda a: a if sign(a) > 0 else number(0))
_masked = _each(lambda a, mask, value: number(value) if mask else a, 3)
_chosen = _each(lambda mask, a, b: number(a if mask else b), 3)
_not = _each(lambda a: number(int(not a)))


# Reductions and movement


def _dims(dims: Any, rank: int) -> tuple[int, ...]:
    return tuple(dim % rank for dim in ([dims] if isinstance(dims, int) else dims))


def _sum(a: np.ndarray, dims: Any, keep: bool = False) -> np.ndarray:
    return np.asarray(a.sum(_dims(dims, a.ndim), keepdims=keep), dtype=object)


def _mean(a: np.ndarray, dims: Any, keep: bool = False) -> np.ndarray:
    return _sum(a, dims, keep) / number(math.prod(a.shape[dim] for dim in _dims(dims, a.ndim)))


def _extreme(function: Callable[[Any, Any], Number]) -> Callable[..., np.ndarray]:
    def reduced(a: np.ndarray, dims: Any, keep: bool = False) -> np.ndarray:
        for dim in sorted(_dims(dims, a.ndim), reverse=True):
            a = np.frompyfunc(function, 2, 1).reduce(a, dim, keepdims=keep)
        return np.asarray(a, dtype=object)

    return reduced


def _softmax(a: np.ndarray, dim: int, *_: Any) -> np.ndarray:
    powers = _exp(a)
    return powers / _sum(powers, dim, True)


def _log_softmax(a: np.ndarray, dim: int, *_: Any) -> np.ndarray:
    return a - _log(_sum(_exp(a), dim, True))


def _logsumexp(a: np.ndarray, dims: list[int], keep: bool = False) -> np.ndarray:
    return _log(_sum(_exp(a), dims, keep))


def _indices(index: np.ndarray) -> np.ndarray:
    return index.astype(int)


def _scatter(a: np.ndarray, dim: int, index: np.ndarray, value: Any) -> np.ndarray:
    scattered = a.copy()
    np.put_along_axis(scattered, _indices(index), number(value), dim)
    return scattered


def _flatten(a: np.ndarray, start: int = 0, end: int = -1) -> np.ndarray:
    start, end = start % a.ndim, end % a.ndim
    return a.reshape(*a.shape[:start], -1, *a.shape[end + 1 :])


def _narrow(a: np.ndarray, dim: int, start: int, length: int) -> np.ndarray:
    return a.take(range(start, start + length), dim)


def _expand(a: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    kept = (1,) * (len(shape) - a.ndim) + a.shape
    return np.broadcast_to(a, [old if new == -1 else new for old, new in zip(kept, shape, strict=True)])


def _pad(a: np.ndarray, widths: Sequence[int], value: Any = 0) -> np.ndarray:
    """Numbers in front and behind, of the last dimension first; negative widths cut off."""
    for place in range(len(widths) // 2):
        dim, (before, after) = a.ndim - 1 - place, widths[2 * place : 2 * place + 2]
        a = a.take(range(max(-before, 0), a.shape[dim] - max(-after, 0)), dim)
        sizes = [(0, 0)] * a.ndim
        sizes[dim] = max(before, 0), max(after, 0)
        a = np.pad(a, sizes, constant_values=number(value))
    return a


def _slice(a: np.ndarray, dim: int, start: int, end: int, step: int) -> np.ndarray:
    return a.take(range(start, min(end, a.shape[dim]), step), dim)


def _index_add(a: np.ndarray, dim: int, index: np.ndarray, source: np.ndarray) -> np.ndarray:
    found = np.moveaxis(a.copy(), dim, 0)
    for place, values in zip(_indices(index), np.moveaxis(source, dim, 0), strict=True):
        found[place] = found[place] + values
    return np.moveaxis(found, 0, dim)


# Layers


def _linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    y = x @ weight.T
    return y if bias is None else y + bias


def _conv1d(x, weight, bias=None, stride=(1,), padding=(0,), dilation=(1,), groups=1):  # noqa: ANN001, ANN202
    """A convolution over one dimension, as it is defined."""
    (t,), (p,), (d,), (outputs, inputs, k) = stride, padding, dilation, weight.shape
    x = _pad(x, [p, p])
    length = (x.shape[2] - d * (k - 1) - 1) // t + 1
    y = np.full((x.shape[0], outputs, length), number(0), dtype=object)
    for n, o, u in np.ndindex(*y.shape):
        first = o // (outputs // groups) * inputs
        for c, i in np.ndindex(inputs, k):
            y[n, o, u] = y[n, o, u] + weight[o, c, i] * x[n, first + c, u * t + i * d]
    return y if bias is None else y + bias[:, None]


def _conv_transpose1d(  # noqa: ANN202
    x, weight, bias=None, stride=(1,), padding=(0,), output_padding=(0,), groups=1, dilation=(1,)  # noqa: ANN001
):
    """A transposed convolution over one dimension, as it is defined."""
    (t,), (p,), (more,), (d,), (inputs, outputs, k) = stride, padding, output_padding, dilation, weight.shape
    length = (x.shape[2] - 1) * t + d * (k - 1) + 1 + more
    y = np.full((x.shape[0], outputs * groups, length), number(0), dtype=object)
    for n, c, u in np.ndindex(*x.shape):
        first = c // (inputs // groups) * outputs
        for o, i in np.ndindex(outputs, k):
            y[n, first + o, u * t + i * d] = y[n, first + o, u * t + i * d] + weight[c, o, i] * x[n, c, u]
    y = y[:, :, p : length - p]
    return y if bias is None else y + bias[:, None]


def _per_channel(value: np.ndarray, rank: int) -> np.ndarray:
    return value.reshape(-1, *[1] * (rank - 2))


def _batch_norm(x, weight, bias, mean, variance, training, momentum, eps, enabled):  # noqa: ANN001, ANN202
    y = (x - _per_channel(mean, x.ndim)) * _per_channel(_rsqrt(variance + eps), x.ndim)
    y = y if weight is None else y * _per_channel(weight, x.ndim)
    return y if bias is None else y + _per_channel(bias, x.ndim)


def _standardised(x: np.ndarray, dims: list[int], eps: Any, *, centred: bool = True) -> np.ndarray:
    c = x - _mean(x, dims, True) if centred else x
    return c * _rsqrt(_mean(c * c, dims, True) + eps)


def _layer_norm(x, shape, weight, bias, eps, enabled):  # noqa: ANN001, ANN202
    y = _standardised(x, list(range(-len(shape), 0)), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _group_norm(x, groups, weight, bias, eps, enabled):  # noqa: ANN001, ANN202
    y = _standardised(x.reshape(x.shape[0], groups, -1), [-1], eps).reshape(x.shape)
    y = y if weight is None else y * _per_channel(weight, x.ndim)
    return y if bias is None else y + _per_channel(bias, x.ndim)


def _rms_norm(x, shape, weight, eps):  # noqa: ANN001, ANN202
    y = _standardised(x, list(range(-len(shape), 0)), eps, centred=False)
    return y if weight is None else y * weight


def _full(value: int) -> Callable[..., np.ndarray]:
    return lambda _, shape: np.full(shape, number(value), dtype=object)


def _like(value: int) -> Callable[..., np.ndarray]:
    return lambda a: np.full(a.shape, number(value), dtype=object)


_max, _min = _extreme(_greater), _extreme(_less)
_maximum = _each(_greater, 2)
_hypot = _each(lambda a, b: Number(sympy.sqrt(a.expression**2 + b.expression**2), math.hypot(a.value, b.value)), 2)

FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.abs: _each(abs),
    torch.amax: _max,
    torch.amin: _min,
    torch.clamp_max: _each(_less, 2),
    torch.clamp_min: _each(_greater, 2),
    torch.exp: _exp,
    torch.flatten: _flatten,
    torch.gather: lambda a, dim, index: np.take_along_axis(a, _indices(index), dim),
    torch.logical_and: _each(lambda a, b: number(int(bool(a) and bool(b))), 2),
    torch.masked_fill: _masked,
    torch.matmul: np.matmul,
    torch.maximum: _maximum,
    torch.mean: _mean,
    torch.narrow: _narrow,
    torch.permute: np.transpose,
    torch.pow: lambda a, b: a ** number(b),
    torch.reciprocal: _reciprocal,
    torch.relu: _relu,
    torch.reshape: np.reshape,
    torch.rsqrt: _rsqrt,
    torch.scatter: _scatter,
    torch.sigmoid: function_of(_sigmoid, lambda a: 1 / (1 + math.exp(-a))),
    torch.sign: _signs,
    torch.softmax: _softmax,
    torch.sum: _sum,
    torch.transpose: np.swapaxes,
    torch.unsqueeze: np.expand_dims,
    torch.where: _chosen,
    torch.zeros_like: _like(0),
    torch.ones_like: _like(1),
    aten.abs.default: _each(abs),
    aten.add.Tensor: operator.add,
    aten.amax.default: _max,
    aten.batch_norm.default: _batch_norm,
    aten.cat.default: lambda parts, dim: np.concatenate(parts, dim),
    aten.constant_pad_nd.default: _pad,
    aten.conv1d.default: _conv1d,
    aten.conv_transpose1d.default: _conv_transpose1d,
    aten.div.Tensor: operator.truediv,
    aten.exp.default: _exp,
    aten.expand.default: _expand,
    aten.expm1.default: function_of(lambda a: sympy.exp(a) - 1, math.expm1),
    aten.group_norm.default: _group_norm,
    aten.hypot.default: _hypot,
    aten.index_add.default: _index_add,
    aten.index_select.default: lambda a, dim, index: a.take(_indices(index), dim),
    aten.layer_norm.default: _layer_norm,
    aten.linalg_vector_norm.default: lambda a, order, dims, keep=False: _sqrt(_sum(a * a, dims, keep)),
    aten.linear.default: _linear,
    aten.log.default: _log,
    aten.log1p.default: function_of(lambda a: sympy.log(1 + a), math.log1p),
    aten.log_softmax.int: _log_softmax,
    aten.logical_not.default: _not,
    aten.logsumexp.default: _logsumexp,
    aten.masked_fill.Scalar: _masked,
    aten.matmul.default: np.matmul,
    aten.maximum.default: _maximum,
    aten.mean.dim: _mean,
    aten.mul.Tensor: operator.mul,
    aten.neg.default: operator.neg,
    aten.new_ones.default: _full(1),
    aten.new_zeros.default: _full(0),
    aten.permute.default: np.transpose,
    aten.pow.Tensor_Scalar: lambda a, b: a ** number(b),
    aten.reciprocal.default: _reciprocal,
    aten.relu.default: _relu,
    aten.reshape.default: np.reshape,
    aten.rms_norm.default: _rms_norm,
    aten.roll.default: lambda a, shifts, dims: np.roll(a, shifts, dims),
    aten.rsqrt.default: _rsqrt,
    aten.select.int: lambda a, dim, index: a.take(index, dim),
    aten.sigmoid.default: function_of(_sigmoid, lambda a: 1 / (1 + math.exp(-a))),
    aten.sigmoid_backward.default: lambda g, y: g * y * (number(1) - y),
    aten.slice.Tensor: _slice,
    aten.softmax.int: _softmax,
    aten.sqrt.default: _sqrt,
    aten.sub.Tensor: operator.sub,
    aten.sum.dim_IntList: _sum,
    aten.sym_size.int: lambda a, dim: a.shape[dim],
    aten.tanh.default: function_of(sympy.tanh, math.tanh),
    aten.tanh_backward.default: lambda g, y: g * (number(1) - y * y),
    aten.threshold_backward.default: _each(lambda g, y, least: g if sign(y - least) > 0 else number(0), 3),
    aten.where.self: _chosen,
}
"""What functions of torch do with arrays of numbers. Backward operations of ATen are written from their definitions."""

_ENTRYWISE: dict[Callable[..., Any], tuple[Callable[..., Any], Callable[..., Any]]] = {
    aten.sin.default: (sympy.sin, math.sin),
    aten.cos.default: (sympy.cos, math.cos),
    aten.tan.default: (sympy.tan, math.tan),
    aten.asin.default: (sympy.asin, math.asin),
    aten.acos.default: (sympy.acos, math.acos),
    aten.atan.default: (sympy.atan, math.atan),
    aten.sinh.default: (sympy.sinh, math.sinh),
    aten.cosh.default: (sympy.cosh, math.cosh),
    aten.asinh.default: (sympy.asinh, math.asinh),
    aten.acosh.default: (lambda a: sympy.log(a + sympy.sqrt(a**2 - 1)), math.acosh),
    aten.atanh.default: (sympy.atanh, math.atanh),
    aten.erf.default: (sympy.erf, math.erf),
    aten.erfc.default: (sympy.erfc, math.erfc),
}
FUNCTIONS |= {target: function_of(*pair) for target, pair in _ENTRYWISE.items()}


# Arrays of symbols


def symbols(name: str, values: Any) -> np.ndarray:
    """An array of symbols that have these values, and their signs; 0 is 0, and no symbol."""
    values = np.array(values, dtype=object)
    found = np.empty(values.shape, dtype=object)
    for place, index in enumerate(np.ndindex(*values.shape), 1):
        value = values[index]
        sides = {"positive": True} if value > 0 else {"negative": True}
        label = name if values.ndim == 0 or values.size == 1 else f"{name}_{place}"
        found[index] = Number(sympy.Symbol(label, **sides), float(value)) if value else number(0)
    return found


def expressions(array: Any) -> list[sympy.Expr]:
    """The expressions of an array, in order."""
    return [entry.expression for entry in np.asarray(exact(array), dtype=object).flat]


def total(array: Iterable[Any]) -> Number:
    """The sum of numbers."""
    return functools.reduce(operator.add, array, number(0))
