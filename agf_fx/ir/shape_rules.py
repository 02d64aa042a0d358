"""Shapes and dtypes of the operations that rules are made of, from the types of what they read.

A fake tensor gives the same answer for any operation, at a hundred times the cost; explanation graphs have thousands of
these operations. A test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import getitem
from typing import Any

import sympy
import torch

from agf_fx.ir.types import TensorType

aten = torch.ops.aten

Size = int | sympy.Expr
Rule = Callable[..., Any]


def result_type(target: Callable[..., Any], args: Sequence[Any]) -> Any:
    """The type of a call, or None if this table does not know the operation.

    Args:
        target: the operation.
        args: its arguments, with a type in the place of every node.
    """
    if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
        return args[0]
    rule = RULES.get(target)
    if rule is None or (target not in _OF_INTEGERS and _whole_numbers(args)):
        return None
    return rule(*args)


def _whole_numbers(args: Sequence[Any]) -> bool:
    """Whether all tensors that are read are integers or masks, of which many operations make floating-point numbers."""
    kinds = [item for arg in args for item in (arg if isinstance(arg, list | tuple) else (arg,))]
    kinds = [kind for kind in kinds if isinstance(kind, TensorType)]
    return bool(kinds) and not any(kind.dtype.is_floating_point for kind in kinds)


def _same(x: TensorType, *_: Any) -> TensorType:
    return x


def _broadcast(a: TensorType, b: TensorType | float, *_: Any) -> TensorType:
    if not isinstance(b, TensorType):
        return _scaled(a, b)
    rank = max(a.rank, b.rank)
    one, other = ((1,) * (rank - kind.rank) + kind.shape for kind in (a, b))
    shape = tuple(y if x == 1 else x for x, y in zip(one, other, strict=True))
    return TensorType(shape, torch.promote_types(a.dtype, b.dtype))


def _comparison(a: TensorType, b: TensorType | float) -> TensorType:
    return TensorType(_broadcast(a, b).shape, torch.bool)


def _scaled(x: TensorType, factor: Any) -> TensorType:
    """With a number, as ``factor``: a mask or integers become what PyTorch makes of the two."""
    if x.dtype.is_floating_point or not isinstance(factor, int | float):
        return x
    return TensorType(x.shape, torch.result_type(torch.empty(0, dtype=x.dtype, device="meta"), factor))


def _reduced(x: TensorType, dims: Sequence[int], keepdim: bool = False, **_: Any) -> TensorType:
    dropped = {dim % x.rank for dim in dims}
    kept = [(1 if dim in dropped else size) for dim, size in enumerate(x.shape) if keepdim or dim not in dropped]
    return TensorType(tuple(kept), x.dtype)


def _summed(x: TensorType, dims: Sequence[int], keepdim: bool = False) -> TensorType:
    shape = _reduced(x, dims, keepdim).shape
    return TensorType(shape, x.dtype if x.dtype.is_floating_point else torch.int64)


def _flattened(x: TensorType, start: int, end: int) -> TensorType:
    start, end = start % x.rank, end % x.rank
    middle = math.prod(x.shape[start : end + 1])
    return TensorType((*x.shape[:start], middle, *x.shape[end + 1 :]), x.dtype)


def _reshaped(x: TensorType, sizes: Sequence[Size]) -> TensorType:
    known = math.prod(size for size in sizes if size != -1)
    rest = sympy.sympify(x.entries) / known
    rest = int(rest) if rest.is_Integer else rest
    return TensorType(tuple(rest if size == -1 else size for size in sizes), x.dtype)


def _expanded(x: TensorType, sizes: Sequence[Size]) -> TensorType:
    shape = (1,) * (len(sizes) - x.rank) + x.shape
    return TensorType(tuple(old if new == -1 else new for old, new in zip(shape, sizes, strict=True)), x.dtype)


def _sliced(x: TensorType, dim: int, start: int, end: int, step: int) -> TensorType:
    shape = list(x.shape)
    shape[dim] = len(range(start, end, step))
    return TensorType(tuple(shape), x.dtype)


def _selected(x: TensorType, dim: int, _: int) -> TensorType:
    dim %= x.rank
    return TensorType((*x.shape[:dim], *x.shape[dim + 1 :]), x.dtype)


def _narrowed(x: TensorType, dim: int, _: int, length: int) -> TensorType:
    dim %= x.rank
    return TensorType((*x.shape[:dim], length, *x.shape[dim + 1 :]), x.dtype)


def _padded(x: TensorType, widths: Sequence[int], *_: Any) -> TensorType:
    shape = list(x.shape)
    for position in range(len(widths) // 2):
        shape[-1 - position] += widths[2 * position] + widths[2 * position + 1]
    return TensorType(tuple(shape), x.dtype)


def _indexed(x: TensorType, dim: int, index: TensorType) -> TensorType:
    shape = list(x.shape)
    shape[dim] = index.shape[0]
    return TensorType(tuple(shape), x.dtype)


def _patches(
    x: TensorType, kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> TensorType:
    n, channels, *spatial = x.shape
    sizes = zip(spatial, kernel, dilation, padding, stride, strict=True)
    positions = math.prod((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, d, p, s in sizes)
    return TensorType((n, channels * math.prod(kernel), positions), x.dtype)


def _pooled(
    x: TensorType,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> tuple[TensorType, TensorType]:
    """Of a maximum with its places. A last window that begins behind the images and their padding is left out."""
    leading = x.rank - len(kernel)
    sizes = []
    for n, k, s, p, d in zip(x.shape[leading:], kernel, stride, padding, dilation, strict=True):
        steps = n + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)
        count = steps // s + 1
        sizes.append(count - 1 if ceil_mode and (count - 1) * s >= n + p else count)
    shape = (*x.shape[:leading], *sizes)
    return TensorType(shape, x.dtype), TensorType(shape, torch.int64)


def _pooled_as_stated(*args: Any) -> tuple[TensorType, TensorType] | None:
    """Where all settings are stated, as in canonical graphs; a read-out may leave some out."""
    return _pooled(*args) if len(args) == 6 else None


def _resized(x: TensorType, sizes: Sequence[int], *_: Any) -> TensorType:
    return TensorType((*x.shape[: x.rank - len(sizes)], *sizes), x.dtype)


def _from_patches(x: TensorType, size: Sequence[int], kernel: Sequence[int], *_: Any) -> TensorType:
    return TensorType((x.shape[0], x.shape[1] // math.prod(kernel), *size), x.dtype)


def _transposed(x: TensorType, first: int, second: int) -> TensorType:
    shape = list(x.shape)
    shape[first], shape[second] = shape[second], shape[first]
    return TensorType(tuple(shape), x.dtype)


def _permuted(x: TensorType, order: Sequence[int]) -> TensorType:
    return TensorType(tuple(x.shape[dim] for dim in order), x.dtype)


def _unsqueezed(x: TensorType, dim: int) -> TensorType:
    position = dim % (x.rank + 1)
    return TensorType((*x.shape[:position], 1, *x.shape[position:]), x.dtype)


def _matmul(a: TensorType, b: TensorType) -> TensorType:
    batch = _broadcast(TensorType(a.shape[:-2], a.dtype), TensorType(b.shape[:-2], b.dtype)).shape
    return TensorType((*batch, a.shape[-2], b.shape[-1]), a.dtype)


def _linear(x: TensorType, weight: TensorType, *_: Any) -> TensorType:
    return TensorType((*x.shape[:-1], weight.shape[0]), x.dtype)


def _convolved(
    x: TensorType,
    weight: TensorType,
    _: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> TensorType:
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    spatial = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    return TensorType((x.shape[0], weight.shape[0], *spatial), x.dtype)


def _transposed_convolution(
    x: TensorType,
    weight: TensorType,
    _: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> TensorType:
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, output_padding, strict=True)
    spatial = tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 + o for n, k, s, p, d, o in sizes)
    return TensorType((x.shape[0], weight.shape[1] * groups, *spatial), x.dtype)


def _concatenated(tensors: Sequence[TensorType], dim: int = 0) -> TensorType:
    shape = list(tensors[0].shape)
    shape[dim] = sum(kind.shape[dim] for kind in tensors)
    return TensorType(tuple(shape), tensors[0].dtype)


def _chunks(x: TensorType, count: int, dim: int) -> tuple[TensorType, ...]:
    shape = list(x.shape)
    part = sympy.sympify(shape[dim]) / count
    shape[dim] = int(part) if part.is_Integer else part
    return (TensorType(tuple(shape), x.dtype),) * count


RULES: dict[Callable[..., Any], Rule] = {
    **dict.fromkeys(
        (
            aten.abs.default,
            aten.add.Scalar,
            aten.clamp.default,
            aten.elu.default,
            aten.erf.default,
            aten.erfc.default,
            aten.erfinv.default,
            aten.log2.default,
            aten.log10.default,
            aten.logit.default,
            aten.special_entr.default,
            aten.sinc.default,
            aten.tan.default,
            aten.asin.default,
            aten.acos.default,
            aten.atan.default,
            aten.sinh.default,
            aten.cosh.default,
            aten.asinh.default,
            aten.acosh.default,
            aten.atanh.default,
            aten.remainder.Scalar,
            aten.fmod.Scalar,
            aten.round.decimals,
            aten.gelu.default,
            aten.group_norm.default,
            aten.hardsigmoid.default,
            aten.hardswish.default,
            aten.hardtanh.default,
            aten.layer_norm.default,
            aten.leaky_relu.default,
            aten.leaky_relu_backward.default,
            aten.cos.default,
            aten.expm1.default,
            aten.log.default,
            aten.log1p.default,
            aten.rms_norm.default,
            aten.sin.default,
            aten.log_softmax.int,
            aten.masked_fill.Scalar,
            aten.mish.default,
            aten.pow.Tensor_Scalar,
            aten.prelu.default,
            aten.reciprocal.default,
            aten.roll.default,
            aten.silu.default,
            aten.softmax.int,
            aten.softplus.default,
            aten.sqrt.default,
            aten.tanh.default,
            aten.zeros_like.default,
            aten.batch_norm.default,
            aten.clamp_max.default,
            aten.clamp_min.default,
            aten.exp.default,
            aten.neg.default,
            aten.ones_like.default,
            aten.relu.default,
            aten.rsqrt.default,
            aten.sigmoid.default,
            aten.sign.default,
            aten.floor.default,
            aten.ceil.default,
            aten.trunc.default,
            aten.round.default,
        ),
        _same,
    ),
    **dict.fromkeys(
        (
            aten.add.Tensor,
            aten.div.Tensor,
            aten.mul.Tensor,
            aten.sub.Tensor,
            aten.hypot.default,
            aten.atan2.default,
            aten.pow.Tensor_Tensor,
            aten.remainder.Tensor,
            aten.fmod.Tensor,
            aten.logaddexp.default,
            aten.heaviside.default,
            aten.floor_divide.default,
            aten.maximum.default,
            aten.minimum.default,
            aten.logit_backward.default,
            aten.gelu_backward.default,
            aten.hardsigmoid_backward.default,
            aten.hardswish_backward.default,
            aten.hardtanh_backward.default,
            aten.mish_backward.default,
            aten.sigmoid_backward.default,
            aten.silu_backward.default,
            aten.softplus_backward.default,
            aten.tanh_backward.default,
            aten.threshold_backward.default,
        ),
        _broadcast,
    ),
    **dict.fromkeys((aten.eq.Scalar, aten.ne.Scalar, aten.eq.Tensor, aten.ne.Tensor), _comparison),
    **dict.fromkeys((aten.lt.Scalar, aten.le.Scalar, aten.gt.Scalar, aten.ge.Scalar), _comparison),
    **dict.fromkeys((aten.lt.Tensor, aten.le.Tensor, aten.gt.Tensor, aten.ge.Tensor), _comparison),
    **dict.fromkeys((aten.signbit.default, aten.logical_not.default), lambda x: TensorType(x.shape, torch.bool)),
    aten.where.self: lambda mask, a, b: _broadcast(_broadcast(a, b), TensorType(mask.shape, a.dtype)),
    aten.mul.Scalar: _scaled,
    aten.sub.Scalar: lambda x, other, *_: _scaled(x, other) if isinstance(x, TensorType) else None,
    aten.div.Scalar: lambda x, _: x if x.dtype.is_floating_point else None,
    aten.sort.stable: lambda x, *_: (x, TensorType(x.shape, torch.int64)),
    aten.scatter.value: _same,
    aten.gather.default: lambda x, _, index: TensorType(index.shape, x.dtype),
    **dict.fromkeys((aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default), _pooled_as_stated),
    **dict.fromkeys((aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default), _resized),
    **dict.fromkeys((aten.upsample_bilinear2d.default, aten.upsample_trilinear3d.default), _resized),
    aten.upsample_linear1d.default: _resized,
    **dict.fromkeys((aten.amax.default, aten.amin.default, aten.mean.dim, aten.logsumexp.default), _reduced),
    aten.sum.dim_IntList: _summed,
    aten.linalg_vector_norm.default: lambda x, _, dims, keepdim: _reduced(x, dims, keepdim),
    aten.flatten.using_ints: _flattened,
    aten.reshape.default: _reshaped,
    aten.expand.default: _expanded,
    aten.slice.Tensor: _sliced,
    aten.select.int: _selected,
    aten.narrow.default: _narrowed,
    aten.constant_pad_nd.default: _padded,
    aten.index_select.default: _indexed,
    aten.transpose.int: _transposed,
    aten.permute.default: _permuted,
    aten.unsqueeze.default: _unsqueezed,
    aten.matmul.default: _matmul,
    aten.linear.default: _linear,
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), _convolved),
    **dict.fromkeys(
        (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
        _transposed_convolution,
    ),
    aten.new_ones.default: lambda x, sizes: TensorType(tuple(sizes), x.dtype),
    aten.new_empty.default: lambda x, sizes: TensorType(tuple(sizes), x.dtype),
    aten.to.dtype: lambda x, dtype: TensorType(x.shape, dtype),
    aten.sym_size.int: lambda x, dim: x.shape[dim],
    aten.cat.default: _concatenated,
    aten.chunk.default: _chunks,
    aten.max_pool2d_with_indices_backward.default: lambda g, x, *_: TensorType(x.shape, g.dtype),
    aten.avg_pool2d_backward.default: lambda g, x, *_: TensorType(x.shape, g.dtype),
    aten._adaptive_avg_pool2d_backward.default: lambda g, x: TensorType(x.shape, g.dtype),
    **dict.fromkeys(
        (
            aten.upsample_linear1d_backward.default,
            aten.upsample_bilinear2d_backward.default,
            aten.upsample_trilinear3d_backward.default,
        ),
        lambda g, _, sizes, *__: TensorType(tuple(sizes), g.dtype),
    ),
    aten.im2col.default: _patches,
    aten.col2im.default: _from_patches,
    aten.new_zeros.default: lambda x, sizes: TensorType(tuple(sizes), x.dtype),
    aten.index_add.default: _same,
    getitem: lambda items, index: items[index],
}

# Of integers and masks alone, what these give has the type that the table says.
_OF_INTEGERS = {
    *(aten.eq.Scalar, aten.ne.Scalar, aten.lt.Scalar, aten.le.Scalar, aten.gt.Scalar, aten.ge.Scalar),
    *(aten.eq.Tensor, aten.ne.Tensor, aten.lt.Tensor, aten.le.Tensor, aten.gt.Tensor, aten.ge.Tensor),
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.mul.Scalar, aten.sub.Scalar, aten.div.Scalar),
    *(aten.where.self, aten.maximum.default, aten.minimum.default, aten.amax.default, aten.amin.default),
    *(aten.sum.dim_IntList, aten.to.dtype, aten.cat.default, aten.sym_size.int, aten.roll.default, aten.neg.default),
    *(aten.new_ones.default, aten.new_zeros.default, aten.new_empty.default, aten.zeros_like.default),
    *(aten.ones_like.default, aten.logical_not.default, aten.sign.default, aten.chunk.default, getitem),
    *(aten.flatten.using_ints, aten.reshape.default, aten.expand.default, aten.slice.Tensor, aten.select.int),
    *(aten.narrow.default, aten.constant_pad_nd.default, aten.index_select.default, aten.transpose.int),
    *(aten.permute.default, aten.unsqueeze.default, aten.gather.default),
}
