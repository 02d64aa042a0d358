"""What every operation costs: a row with its floating-point operations, from the types of what it reads and returns.

An addition, product, quotient, comparison, maximum, rounding and elementary function (exp, log, √, sin, erf, tanh, ...)
count as one each, and an activation as many as its formula has. A product of matrices and a convolution count two for
every multiply-add, without their bias, as in ``torch.utils.flop_counter``. What moves, repeats or selects entries, and
what makes constants, counts nothing; what it reads and writes is counted in bytes (see `agf_fx.ir.costs`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from operator import getitem
from typing import Any

import sympy
import torch

from agf_fx.ir.operations import IN_PLACE
from agf_fx.ir.types import TensorType
from agf_fx.ir.vocabulary import CONVOLUTIONS, CREATION, STEPS, TRANSPOSED_CONVOLUTIONS

aten = torch.ops.aten

Count = int | sympy.Expr
Row = Callable[..., Count]
"""(type of the result, of several a tuple, then the arguments with types in the place of tensors) -> operations."""


def flops(target: Callable[..., Any], result: Any, args: tuple[Any, ...]) -> Count | None:
    """Floating-point operations of a call; None where the operation has no row.

    Args:
        target: the operation.
        result: the type of what it returns.
        args: its arguments, with a type in the place of every node.
    """
    found = row(target)
    return None if found is None else found(result, *args)


@functools.cache
def row(target: Callable[..., Any]) -> Row | None:
    """The row of an operation. One that PyTorch itself tags as entry by entry, and that is in no table, counts one."""
    found = FLOPS.get(_OUT_OF_PLACE.get(target, target))
    if found is None and isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags:
        return _each_result(1)
    return found


_OUT_OF_PLACE = {in_place: plain for plain, in_place in IN_PLACE.items()}


def is_product(target: Callable[..., Any]) -> bool:
    """Whether an operation is a convolution or a product of matrices: what most of the arithmetic is spent in."""
    return target in PRODUCTS


def _entries(kind: Any) -> Count:
    """Entries of a tensor; of several results, of the first."""
    while isinstance(kind, tuple | list):
        kind = kind[0]
    return kind.entries if isinstance(kind, TensorType) else 0


def _nothing(*_: Any) -> Count:
    return 0


def _each_result(count: int) -> Row:
    return lambda result, *_: count * _entries(result)


def _each_operand(count: int, per_result: int = 0) -> Row:
    return lambda result, x, *_: count * _entries(x) + per_result * _entries(result)


# --- products: two for every multiply-add ---------------------------------------------------------------------------


def _convolution(result: Any, _: TensorType, weight: TensorType, *__: Any) -> Count:
    return 2 * _entries(result) * math.prod(weight.shape[1:])


def _transposed_convolution(_: Any, x: TensorType, weight: TensorType, *__: Any) -> Count:
    return 2 * x.entries * math.prod(weight.shape[1:])


def _any_convolution(result: Any, x: TensorType, weight: TensorType, *rest: Any) -> Count:
    return (_transposed_convolution if rest[4] else _convolution)(result, x, weight)


def _convolution_backward(_: Any, g: TensorType, x: TensorType, weight: TensorType, *rest: Any) -> Count:
    """One product for each of the gradients, at the images and at the weight, that are asked for."""
    wanted = sum(bool(asked) for asked in rest[-1][:2])
    return wanted * 2 * (x if rest[4] else g).entries * math.prod(weight.shape[1:])


def _matmul(result: Any, a: TensorType, *_: Any) -> Count:
    return 2 * _entries(result) * a.shape[-1]


def _dot(_: Any, a: TensorType, *__: Any) -> Count:
    return 2 * a.entries


def _addmm(result: Any, _: TensorType, a: TensorType, *__: Any) -> Count:
    return _matmul(result, a)


PRODUCTS: dict[Callable[..., Any], Row] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(TRANSPOSED_CONVOLUTIONS, _transposed_convolution),
    aten.convolution.default: _any_convolution,
    aten.convolution_backward.default: _convolution_backward,
    **dict.fromkeys(
        (aten.linear.default, aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default), _matmul
    ),
    aten.addmm.default: _addmm,
    **dict.fromkeys((aten.dot.default, aten.vdot.default), _dot),
}


# --- windows, orders and transforms ---------------------------------------------------------------------------------


def _windows(result: Any, x: TensorType, kernel: Any, *_: Any) -> Count:
    """A maximum over windows: every entry of every window is compared."""
    return _entries(result) * _size(kernel, x)


def _mean_of_windows(result: Any, x: TensorType, kernel: Any, *_: Any) -> Count:
    return _entries(result) * (_size(kernel, x) + 1)


def _mean_of_windows_backward(_: Any, g: TensorType, x: TensorType, kernel: Any, *__: Any) -> Count:
    return g.entries * (_size(kernel, x) + 1)


def _size(kernel: Any, x: TensorType) -> int:
    """Entries of a window; one size may stand for all dimensions of the positions."""
    sizes = [kernel] if isinstance(kernel, int) else list(kernel)
    return math.prod(sizes if len(sizes) > 1 else sizes * (x.rank - 2))


def _interpolation(dims: int) -> Row:
    """Linear along every dimension: 2^d neighbours, a product and a sum for each."""
    return _each_result(2 * 2**dims)


def _interpolation_backward(dims: int) -> Row:
    return lambda _, g, *__: 2 * 2**dims * g.entries


def _sorting(dim_at: int) -> Row:
    """n log₂ n comparisons along one dimension."""

    def count(_: Any, x: TensorType, *args: Any) -> Count:
        dim = args[dim_at] if len(args) > dim_at and isinstance(args[dim_at], int) else -1
        return x.entries * _bits(x.shape[dim]) if x.rank else 0

    return count


def _fourier(result: Any, x: TensorType, dims: Any, *_: Any) -> Count:
    """5 n log₂ n, as of Cooley and Tukey's."""
    sizes = _entries(result), x.entries
    return (
        5
        * max(sizes, key=lambda size: sympy.sympify(size).as_coeff_Mul()[0])
        * sum(_bits(x.shape[dim]) for dim in dims)
    )


def _bits(length: Count) -> Count:
    return max(1, math.ceil(math.log2(length))) if isinstance(length, int) else sympy.log(length, 2)


def _distances(result: Any, x: TensorType, *_: Any) -> Count:
    """A difference, a power and a sum for every component, and the root."""
    return _entries(result) * (3 * x.shape[-1] + 1)


def _indexed(_: Any, *args: Any) -> Count:
    """One addition for every entry of the last tensor, which is added to some place."""
    return [arg for arg in args if isinstance(arg, TensorType)][-1].entries


def _bag(_: Any, weight: TensorType, indices: TensorType, *__: Any) -> Count:
    return indices.entries * weight.shape[1]


# --- the table ------------------------------------------------------------------------------------------------------


def _rows(row: Row, *targets: Callable[..., Any]) -> dict[Callable[..., Any], Row]:
    return dict.fromkeys(targets, row)


_MOVEMENT = _rows(
    _nothing,
    *CREATION,
    getitem,
    aten.alias.default,
    aten.cat.default,
    aten.chunk.default,
    aten.constant_pad_nd.default,
    aten.contiguous.default,
    aten.copy.default,
    aten.diagonal.default,
    aten.embedding.default,
    aten.expand.default,
    aten.flatten.using_ints,
    aten.flip.default,
    aten.gather.default,
    aten.im2col.default,
    aten.index_put.default,
    aten.index_select.default,
    aten.masked_fill.Scalar,
    aten.masked_scatter.default,
    aten.narrow.default,
    aten.permute.default,
    aten.reflection_pad1d.default,
    aten.reflection_pad2d.default,
    aten.reflection_pad3d.default,
    aten.repeat.default,
    aten.replication_pad2d.default,
    aten.replication_pad3d.default,
    aten.reshape.default,
    aten.roll.default,
    aten.scatter.src,
    aten.scatter.value,
    aten.select.int,
    aten.select_scatter.default,
    aten.slice.Tensor,
    aten.slice_scatter.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.sym_size.int,
    aten.to.dtype,
    aten._to_copy.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.upsample_nearest2d.vec,
    aten.view.default,
    aten.where.self,
)

# Entry by entry: how many elementary operations the formula has.
_ENTRYWISE = {
    **_rows(_each_result(1), *STEPS - {aten.floor_divide.default}),
    **_rows(
        _each_result(1),
        aten.abs.default,
        aten.acos.default,
        aten.acosh.default,
        aten.add.Scalar,
        aten.add.Tensor,
        aten.asin.default,
        aten.asinh.default,
        aten.atan.default,
        aten.atan2.default,
        aten.atanh.default,
        aten.clamp_max.default,
        aten.clamp_min.default,
        aten.cos.default,
        aten.cosh.default,
        aten.div.Scalar,
        aten.div.Tensor,
        aten.erf.default,
        aten.erfc.default,
        aten.erfinv.default,
        aten.exp.default,
        aten.expm1.default,
        aten.log.default,
        aten.log10.default,
        aten.log1p.default,
        aten.log2.default,
        aten.logical_not.default,
        aten.maximum.default,
        aten.minimum.default,
        aten.mul.Scalar,
        aten.mul.Tensor,
        aten.neg.default,
        aten.pow.Tensor_Scalar,
        aten.pow.Tensor_Tensor,
        aten.reciprocal.default,
        aten.relu.default,
        aten.rsqrt.default,
        aten.sin.default,
        aten.sinh.default,
        aten.sqrt.default,
        aten.sub.Scalar,
        aten.sub.Tensor,
        aten.tan.default,
        aten.tanh.default,
    ),
    **_rows(
        _each_result(2),
        aten.clamp.default,
        aten.floor_divide.default,
        aten.hardtanh.default,
        aten.leaky_relu.default,
        aten.leaky_relu_backward.default,
        aten.prelu.default,
        aten.threshold_backward.default,  # g ⊙ [x > 0]
    ),
    **_rows(
        _each_result(3),
        aten.hardtanh_backward.default,
        aten.logit.default,
        aten.logit_backward.default,
        aten.sigmoid_backward.default,  # g y (1 - y)
        aten.sinc.default,
        aten.softplus.default,  # log(1 + exp x)
        aten.special_entr.default,
        aten.tanh_backward.default,  # g (1 - y²)
    ),
    **_rows(
        _each_result(4),
        aten.elu.default,
        aten.fmod.Scalar,
        aten.fmod.Tensor,
        aten.hardsigmoid.default,
        aten.hardsigmoid_backward.default,
        aten.hypot.default,
        aten.remainder.Scalar,
        aten.remainder.Tensor,
        aten.sigmoid.default,  # 1 / (1 + exp -x)
        aten.softplus_backward.default,
    ),
    **_rows(
        _each_result(5),
        aten.elu_backward.default,
        aten.gelu.default,  # x ½ (1 + erf(x / √2))
        aten.hardswish.default,
        aten.logaddexp.default,
        aten.mish.default,  # x tanh(log(1 + exp x))
        aten.silu.default,
    ),
    aten.hardswish_backward.default: _each_result(6),
    aten.silu_backward.default: _each_result(8),  # g σ (1 + x (1 - σ))
    **_rows(_each_result(10), aten.gelu_backward.default, aten.mish_backward.default),
}

_NORMS = {
    **_rows(  # (x - mean) / √(variance + ε) · γ + β
        _each_result(4),
        aten.batch_norm.default,
        aten._native_batch_norm_legit_no_training.default,
    ),
    **_rows(  # and the mean and variance, two operations each
        _each_result(8),
        aten.group_norm.default,
        aten.layer_norm.default,
        aten.native_group_norm.default,
        aten.native_layer_norm.default,
        aten._native_batch_norm_legit.no_stats,
    ),
    aten.rms_norm.default: _each_result(5),
    **_rows(_each_result(12), aten.native_group_norm_backward.default, aten.native_layer_norm_backward.default),
    aten._weight_norm.default: _each_result(3),
    **_rows(_each_operand(5), aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten._log_softmax.default),
}

_REDUCTIONS = {
    **_rows(
        _each_operand(1),
        aten.amax.default,
        aten.amin.default,
        aten.any.default,
        aten.any.dim,
        aten.any.dims,
        aten.argmax.default,
        aten.argmin.default,
        aten.cumsum.default,
        aten.max.dim,
        aten.min.dim,
        aten.prod.default,
        aten.prod.dim_int,
        aten.sum.dim_IntList,
        aten.col2im.default,  # windows added up
        aten.embedding_dense_backward.default,
    ),
    **_rows(_each_operand(1, 1), aten.mean.default, aten.mean.dim),
    aten.linalg_vector_norm.default: _each_operand(2, 1),
    **_rows(
        _each_operand(4),
        aten.std_mean.correction,
        aten.std_mean.dim,
        aten.var.correction,
        aten.var.dim,
        aten.var_mean.correction,
        aten.var_mean.dim,
    ),
    aten.logsumexp.default: _each_operand(4, 2),
    **_rows(_indexed, aten.index_add.default, aten.scatter_add.default, aten.scatter_reduce.two),
    aten._embedding_bag.default: _bag,
}

_POOLING = {
    **_rows(_windows, aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default),
    **_rows(_mean_of_windows, aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default),
    **_rows(_mean_of_windows_backward, aten.avg_pool2d_backward.default, aten.avg_pool3d_backward.default),
    **_rows(  # windows that tile the images, near enough
        _each_operand(1, 1),
        aten.adaptive_avg_pool1d.default,
        aten.adaptive_avg_pool2d.default,
        aten.adaptive_avg_pool3d.default,
        aten._adaptive_avg_pool2d.default,
        aten._adaptive_avg_pool3d.default,
        aten.adaptive_max_pool2d.default,
        aten.adaptive_max_pool3d.default,
        aten._adaptive_avg_pool2d_backward.default,
        aten._adaptive_avg_pool3d_backward.default,
    ),
    **_rows(  # every entry of the gradient is added to its place
        _each_operand(1),
        aten.max_pool2d_with_indices_backward.default,
        aten.max_pool3d_with_indices_backward.default,
        aten.adaptive_max_pool2d_backward.default,
        aten.adaptive_max_pool3d_backward.default,
    ),
    aten.upsample_linear1d.default: _interpolation(1),
    **_rows(
        _interpolation(2), aten.upsample_bilinear2d.default, aten.upsample_bilinear2d.vec, aten.grid_sampler_2d.default
    ),
    aten.upsample_trilinear3d.default: _interpolation(3),
    aten.upsample_linear1d_backward.default: _interpolation_backward(1),
    aten.upsample_bilinear2d_backward.default: _interpolation_backward(2),
    aten.upsample_trilinear3d_backward.default: _interpolation_backward(3),
}

_ORDERS = {
    aten.sort.default: _sorting(0),
    aten.sort.stable: _sorting(1),
    aten.topk.default: _sorting(1),
    **_rows(_fourier, aten._fft_c2r.default, aten._fft_r2c.default),
    **_rows(_distances, aten._cdist_forward.default, aten._pdist_forward.default),
}

FLOPS: dict[Callable[..., Any], Row] = {
    **_MOVEMENT,
    **_ENTRYWISE,
    **_NORMS,
    **_REDUCTIONS,
    **_POOLING,
    **_ORDERS,
    **PRODUCTS,
}
