"""What functions of torch do with arrays of symbolic numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
import torch

from agf_fx.inspect.certificates.arrays import (
    averaged,
    exp,
    expand,
    extreme,
    flatten,
    function_of,
    index_add,
    indices,
    log,
    log_softmax,
    log_sum_exp,
    narrow,
    pad,
    rsqrt,
    scatter,
    slice_,
    softmax,
    sqrt,
    summed,
)
from agf_fx.inspect.certificates.numbers import Number, entrywise, greater, less, number, sign
from agf_fx.inspect.certificates.operations import (
    batch_norm,
    conv1d,
    conv_transpose1d,
    group_norm,
    layer_norm,
    linear,
    max_pool2d,
    rms_norm,
)

aten = torch.ops.aten


def _sigmoid(a: sympy.Expr) -> sympy.Expr:
    return 1 / (1 + sympy.exp(-a))


_signs = entrywise(lambda a: number(sign(a)))
_reciprocal = entrywise(lambda a: 1 / a)
_relu = entrywise(lambda a: a if sign(a) > 0 else number(0))
_masked = entrywise(lambda a, mask, value: number(value) if mask else a, 3)
_chosen = entrywise(lambda mask, a, b: number(a if mask else b), 3)
_not = entrywise(lambda a: number(int(not a)))


def _full(value: int) -> Callable[..., np.ndarray]:
    return lambda _, shape: np.full(shape, number(value), dtype=object)


def _like(value: int) -> Callable[..., np.ndarray]:
    return lambda a: np.full(a.shape, number(value), dtype=object)


_max, _min = extreme(greater), extreme(less)
_maximum = entrywise(greater, 2)
_hypot = entrywise(lambda a, b: Number(sympy.sqrt(a.expression**2 + b.expression**2), math.hypot(a.value, b.value)), 2)


def _clamp(x: Any, low: float | None, high: float | None) -> Any:
    x = x if low is None else entrywise(greater, 2)(x, low)
    return x if high is None else entrywise(less, 2)(x, high)


def _prelu(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    slope = slope.reshape(-1, *[1] * (x.ndim - 2))
    return entrywise(lambda a, s: a if sign(a) > 0 else a * s, 2)(x, slope)


FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.abs: entrywise(abs),
    torch.amax: _max,
    torch.amin: _min,
    torch.clamp_max: entrywise(less, 2),
    torch.clamp_min: entrywise(greater, 2),
    torch.exp: exp,
    torch.flatten: flatten,
    torch.gather: lambda a, dim, index: np.take_along_axis(a, indices(index), dim),
    torch.logical_and: entrywise(lambda a, b: number(int(bool(a) and bool(b))), 2),
    torch.masked_fill: _masked,
    torch.matmul: np.matmul,
    torch.maximum: _maximum,
    torch.mean: averaged,
    torch.narrow: narrow,
    torch.permute: np.transpose,
    torch.pow: lambda a, b: a ** number(b),
    torch.reciprocal: _reciprocal,
    torch.relu: _relu,
    torch.reshape: np.reshape,
    torch.rsqrt: rsqrt,
    torch.scatter: scatter,
    torch.sigmoid: function_of(_sigmoid, lambda a: 1 / (1 + math.exp(-a))),
    torch.sign: _signs,
    torch.softmax: softmax,
    torch.sum: summed,
    torch.transpose: np.swapaxes,
    torch.unsqueeze: np.expand_dims,
    torch.where: _chosen,
    torch.zeros_like: _like(0),
    torch.ones_like: _like(1),
    aten.abs.default: entrywise(abs),
    aten.add.Tensor: operator.add,
    aten.amax.default: _max,
    aten.atan2.default: entrywise(
        lambda a, b: Number(sympy.atan2(a.expression, b.expression), math.atan2(a.value, b.value)), 2
    ),
    aten.batch_norm.default: batch_norm,
    aten.cat.default: lambda parts, dim: np.concatenate(parts, dim),
    aten.clamp.default: _clamp,
    aten.constant_pad_nd.default: pad,
    aten.conv1d.default: conv1d,
    aten.conv_transpose1d.default: conv_transpose1d,
    aten.div.Tensor: operator.truediv,
    aten.exp.default: exp,
    aten.expand.default: expand,
    aten.expm1.default: function_of(lambda a: sympy.exp(a) - 1, math.expm1),
    aten.group_norm.default: group_norm,
    aten.hypot.default: _hypot,
    aten.index_add.default: index_add,
    aten.index_select.default: lambda a, dim, index: a.take(indices(index), dim),
    aten.layer_norm.default: layer_norm,
    aten.linalg_vector_norm.default: lambda a, order, dims, keep=False: sqrt(summed(a * a, dims, keep)),
    aten.linear.default: linear,
    aten.log.default: log,
    aten.log1p.default: function_of(lambda a: sympy.log(1 + a), math.log1p),
    aten.log_softmax.int: log_softmax,
    aten.logaddexp.default: lambda a, b: log(exp(a) + exp(b)),
    aten.logical_not.default: _not,
    aten.logsumexp.default: log_sum_exp,
    aten.masked_fill.Scalar: _masked,
    aten.matmul.default: np.matmul,
    aten.max_pool2d_with_indices.default: max_pool2d,
    aten.maximum.default: _maximum,
    aten.mean.dim: averaged,
    aten.mul.Tensor: operator.mul,
    aten.neg.default: operator.neg,
    aten.new_ones.default: _full(1),
    aten.new_zeros.default: _full(0),
    aten.permute.default: np.transpose,
    aten.pow.Tensor_Scalar: lambda a, b: a ** number(b),
    aten.prelu.default: _prelu,
    aten.reciprocal.default: _reciprocal,
    aten.relu.default: _relu,
    aten.reshape.default: np.reshape,
    aten.rms_norm.default: rms_norm,
    aten.roll.default: lambda a, shifts, dims: np.roll(a, shifts, dims),
    aten.rsqrt.default: rsqrt,
    aten.select.int: lambda a, dim, index: a.take(index, dim),
    aten.sigmoid.default: function_of(_sigmoid, lambda a: 1 / (1 + math.exp(-a))),
    aten.sigmoid_backward.default: lambda g, y: g * y * (number(1) - y),
    aten.slice.Tensor: slice_,
    aten.softmax.int: softmax,
    aten.special_entr.default: lambda a: -a * log(a),
    aten.sqrt.default: sqrt,
    aten.sub.Tensor: operator.sub,
    aten.sum.dim_IntList: summed,
    aten.sym_size.int: lambda a, dim: a.shape[dim],
    aten.tanh.default: function_of(sympy.tanh, math.tanh),
    aten.tanh_backward.default: lambda g, y: g * (number(1) - y * y),
    aten.threshold_backward.default: entrywise(lambda g, y, least: g if sign(y - least) > 0 else number(0), 3),
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
