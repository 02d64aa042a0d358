"""Functions, reductions and movement of arrays of symbolic numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy

from agf_fx.inspect.certificates.numbers import Number, entrywise, number


def function_of(symbolic: Callable[[sympy.Expr], sympy.Expr], numeric: Callable[[float], float]) -> Callable[..., Any]:
    """A function of every entry, from one of expressions and one of values."""
    return entrywise(lambda a: Number(symbolic(a.expression), numeric(a.value)))


def _root(a: sympy.Expr) -> sympy.Expr:
    return sympy.sqrt(sympy.factor_terms(sympy.expand(a)))


exp = function_of(sympy.exp, math.exp)
log = function_of(sympy.log, math.log)
sqrt = function_of(_root, math.sqrt)
rsqrt = function_of(lambda a: 1 / _root(a), lambda a: 1 / math.sqrt(a))


def _dims(dims: Any, rank: int) -> tuple[int, ...]:
    return tuple(dim % rank for dim in ([dims] if isinstance(dims, int) else dims))


def summed(a: np.ndarray, dims: Any, keep: bool = False) -> np.ndarray:
    """The sum over dimensions."""
    return np.asarray(a.sum(_dims(dims, a.ndim), keepdims=keep), dtype=object)


def averaged(a: np.ndarray, dims: Any, keep: bool = False) -> np.ndarray:
    """The mean over dimensions."""
    return summed(a, dims, keep) / number(math.prod(a.shape[dim] for dim in _dims(dims, a.ndim)))


def extreme(function: Callable[[Any, Any], Number]) -> Callable[..., np.ndarray]:
    """The maximum or minimum over dimensions."""

    def reduced(a: np.ndarray, dims: Any, keep: bool = False) -> np.ndarray:
        for dim in sorted(_dims(dims, a.ndim), reverse=True):
            a = np.frompyfunc(function, 2, 1).reduce(a, dim, keepdims=keep)
        return np.asarray(a, dtype=object)

    return reduced


def softmax(a: np.ndarray, dim: int, *_: Any) -> np.ndarray:
    """exp x / Σ exp x."""
    powers = exp(a)
    return powers / summed(powers, dim, True)


def log_softmax(a: np.ndarray, dim: int, *_: Any) -> np.ndarray:
    """x - log Σ exp x."""
    return a - log(summed(exp(a), dim, True))


def log_sum_exp(a: np.ndarray, dims: list[int], keep: bool = False) -> np.ndarray:
    """log Σ exp x."""
    return log(summed(exp(a), dims, keep))


def indices(index: np.ndarray) -> np.ndarray:
    """An array of numbers as integers."""
    return index.astype(int)


def scatter(a: np.ndarray, dim: int, index: np.ndarray, value: Any) -> np.ndarray:
    """A value put at indices of a dimension."""
    scattered = a.copy()
    np.put_along_axis(scattered, indices(index), number(value), dim)
    return scattered


def flatten(a: np.ndarray, start: int = 0, end: int = -1) -> np.ndarray:
    """Dimensions as one."""
    start, end = start % a.ndim, end % a.ndim
    return a.reshape(*a.shape[:start], -1, *a.shape[end + 1 :])


def narrow(a: np.ndarray, dim: int, start: int, length: int) -> np.ndarray:
    """A part of a dimension."""
    return a.take(range(start, start + length), dim)


def expand(a: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Broadcast; -1 keeps a size."""
    kept = (1,) * (len(shape) - a.ndim) + a.shape
    return np.broadcast_to(a, [old if new == -1 else new for old, new in zip(kept, shape, strict=True)])


def pad(a: np.ndarray, widths: Sequence[int], value: Any = 0) -> np.ndarray:
    """Numbers in front and behind, of the last dimension first; negative widths cut off."""
    for place in range(len(widths) // 2):
        dim, (before, after) = a.ndim - 1 - place, widths[2 * place : 2 * place + 2]
        a = a.take(range(max(-before, 0), a.shape[dim] - max(-after, 0)), dim)
        sizes = [(0, 0)] * a.ndim
        sizes[dim] = max(before, 0), max(after, 0)
        a = np.pad(a, sizes, constant_values=number(value))
    return a


def slice_(a: np.ndarray, dim: int, start: int, end: int, step: int) -> np.ndarray:
    """Every ``step``-th entry of a part of a dimension."""
    return a.take(range(start, min(end, a.shape[dim]), step), dim)


def index_add(a: np.ndarray, dim: int, index: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Parts of ``source`` added at indices of a dimension."""
    found = np.moveaxis(a.copy(), dim, 0)
    for place, values in zip(indices(index), np.moveaxis(source, dim, 0), strict=True):
        found[place] = found[place] + values
    return np.moveaxis(found, 0, dim)
