"""Poolings, resamplings and their adjoints.

Averages and resamplings are products with small constant matrices, their adjoints products with the transposed ones.
The adjoint of a maximum adds every gradient at the position where the maximum was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from agf_fx.exports.onnx.indexing import scatter_added
from agf_fx.exports.onnx.movement import filled, padded, reshaped, shape_of
from agf_fx.exports.onnx.sizes import Type
from agf_fx.exports.onnx.values import Value, apply, vector
from agf_fx.exports.onnx.windows import (
    adaptive_matrices,
    adaptive_windows,
    average_matrices,
    linear_matrices,
    per_dim,
    windows,
)

aten = torch.ops.aten

Lowering = Callable[..., Any]
Sizes = Sequence[int]


# Averages and resamplings


def _average(kind: Type, x: Value, *options: Any) -> Value:
    return _along_each(x, average_matrices(x.shape[2:], *options))


def _average_backward(kind: Type, g: Value, x: Value, *options: Any) -> Value:
    return _along_each(g, [matrix.T for matrix in average_matrices(x.shape[2:], *options)])


def _adaptive(kind: Type, x: Value, outputs: Sizes) -> Value:
    return _along_each(x, adaptive_matrices(x.shape[2:], outputs))


def _adaptive_backward(kind: Type, g: Value, x: Value) -> Value:
    return _along_each(g, [matrix.T for matrix in adaptive_matrices(x.shape[2:], g.shape[2:])])


def _resampling(kind: Type, x: Value, outputs: Sizes, *options: Any) -> Value:
    return _along_each(x, linear_matrices(x.shape[2:], outputs, *options))


def _resampling_backward(kind: Type, g: Value, outputs: Sizes, inputs: Sequence[Any], *options: Any) -> Value:
    return _along_each(g, [matrix.T for matrix in linear_matrices(inputs[2:], outputs, *options)])


def _along_each(x: Value, matrices: Sequence[Tensor]) -> Value:
    """Every spatial dimension times its matrix (outputs, inputs); (N, C, *inputs) -> (N, C, *outputs)."""
    sizes = list(x.shape[2:])
    result = x
    for dim, matrix in enumerate(matrices):
        if torch.equal(matrix, torch.eye(len(matrix), dtype=matrix.dtype)):
            continue
        if dim == len(sizes) - 1:
            result = apply("MatMul", result, x.writer.constant(matrix.T.to(x.dtype)))
        else:
            rows = reshaped(result, [0, -1, sizes[dim], math.prod(sizes[dim + 1 :])])
            rows = apply("MatMul", x.writer.constant(matrix.to(x.dtype)), rows)
            result = reshaped(rows, [0, x.shape[1], *sizes[:dim], len(matrix), *sizes[dim + 1 :]])
        sizes[dim] = len(matrix)
    return result


# Maxima; indices count the positions of one feature map


def _maximum(
    kind: tuple[Type, Type],
    x: Value,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    dilation: Sizes = (1,),
    ceil_mode: bool = False,
) -> tuple[Value, Value]:
    """ONNX's own, with as much padding behind as the number of outputs asks for, which says the same as ceil_mode."""
    sizes, outputs = x.shape[2:], kind[0].shape[2:]
    geometry = [per_dim(option, len(sizes)) for option in (kernel, stride or kernel, padding, dilation)]
    behind = [
        max(0, (o - 1) * s + d * (k - 1) + 1 - size - p)
        for size, o, k, s, p, d in zip(sizes, outputs, *geometry, strict=True)
    ]
    kernel, stride, padding, dilation = geometry
    if any(width >= k for width, k in zip(behind, kernel, strict=True)):  # more than runtimes accept
        return _largest(x, windows(sizes, outputs, *geometry), outputs)
    return _max_pool(x, kernel, strides=stride, pads=[*padding, *behind], dilations=dilation)


def _max_pool(x: Value, kernel: Sizes, **options: Sizes) -> tuple[Value, Value]:
    """ONNX counts positions through all feature maps of all images."""
    dtypes = (x.dtype, torch.int64)
    values, positions = apply("MaxPool", x, kernel_shape=list(kernel), **options, dtypes=dtypes)
    return values, positions % math.prod(x.shape[2:])


def _adaptive_maximum(kind: tuple[Type, Type], x: Value, outputs: Sizes) -> tuple[Value, Value]:
    sizes = x.shape[2:]
    if any(size % output for size, output in zip(sizes, outputs, strict=True)):
        return _largest(x, adaptive_windows(sizes, outputs), outputs)
    kernel = [size // output for size, output in zip(sizes, outputs, strict=True)]
    return _max_pool(x, kernel, strides=kernel)


def _largest(x: Value, table: Tensor, outputs: Sizes) -> tuple[Value, Value]:
    """The largest entry of each window of a table, and its position; of equal ones the first."""
    shape = [0, 0, *outputs]
    read = apply("Gather", reshaped(x, [0, 0, -1]), x.writer.constant(table), axis=2)
    place = apply("ArgMax", read, axis=3, keepdims=0, dtypes=torch.int64)
    entry = place + x.writer.constant(torch.arange(len(table)) * table.shape[1])
    index = apply("Gather", x.writer.constant(table.flatten()), entry, axis=0)
    return reshaped(apply("ReduceMax", read, [3], keepdims=0), shape), reshaped(index, shape)


def _maximum_backward(kind: Type, g: Value, x: Value, *options: Any) -> Value:
    """``options`` end with the indices; windows may overlap."""
    sizes, indices = x.shape[2:], options[-1]
    zeros = filled(kind, vector(x.writer, [shape_of(g, 0, 2), math.prod(sizes)]), 0, x.writer)
    flat = scatter_added(zeros, 2, reshaped(indices, [0, 0, -1]), reshaped(g, [0, 0, -1]))
    return reshaped(flat, [0, 0, *sizes])


# Patches


def _to_patches(kind: Type, x: Value, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes) -> Value:
    """(N, C, H, W) -> (N, C · kernel, patches): what every window of a padded feature map reads."""
    sizes = [size + 2 * p for size, p in zip(x.shape[2:], padding, strict=True)]
    outputs = [(size - d * (k - 1) - 1) // s + 1 for size, k, d, s in zip(sizes, kernel, dilation, stride, strict=True)]
    table = windows(sizes, outputs, kernel, stride, [0, 0], dilation)
    flat = reshaped(padded(x, padding, padding), [0, 0, -1])
    read = apply("Gather", flat, x.writer.constant(table.T.contiguous()), axis=2)
    return reshaped(read, [0, -1, len(table)])


def _from_patches(
    kind: Type, x: Value, sizes: Sizes, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes
) -> Value:
    """``nn.Fold``: the sum of patches where they overlap."""
    geometry = {"dilations": list(dilation), "pads": list(padding) * 2, "strides": list(stride)}
    return apply("Col2Im", x, list(sizes), list(kernel), **geometry)


POOLING: dict[Callable[..., Any], Lowering] = {
    **dict.fromkeys((aten.avg_pool2d.default, aten.avg_pool3d.default), _average),
    **dict.fromkeys((aten.avg_pool2d_backward.default, aten.avg_pool3d_backward.default), _average_backward),
    **dict.fromkeys((aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default), _adaptive),
    **dict.fromkeys(
        (aten._adaptive_avg_pool2d_backward.default, aten._adaptive_avg_pool3d_backward.default), _adaptive_backward
    ),
    **dict.fromkeys(
        (aten.upsample_linear1d.default, aten.upsample_bilinear2d.default, aten.upsample_trilinear3d.default),
        _resampling,
    ),
    **dict.fromkeys(
        (
            aten.upsample_linear1d_backward.default,
            aten.upsample_bilinear2d_backward.default,
            aten.upsample_trilinear3d_backward.default,
        ),
        _resampling_backward,
    ),
    **dict.fromkeys((aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default), _maximum),
    **dict.fromkeys((aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default), _adaptive_maximum),
    **dict.fromkeys(
        (
            aten.max_pool2d_with_indices_backward.default,
            aten.max_pool3d_with_indices_backward.default,
            aten.adaptive_max_pool2d_backward.default,
            aten.adaptive_max_pool3d_backward.default,
        ),
        _maximum_backward,
    ),
    aten.im2col.default: _to_patches,
    aten.col2im.default: _from_patches,
}
