"""Convolutions, matrix products and normalisations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from agf_fx.exports.onnx.movement import padded, permuted, reshaped
from agf_fx.exports.onnx.reductions import mean
from agf_fx.exports.onnx.sizes import Type
from agf_fx.exports.onnx.values import Value, apply
from agf_fx.exports.onnx.windows import per_dim

aten = torch.ops.aten

Lowering = Callable[..., Any]
Sizes = Sequence[int]


def _convolution(
    kind: Type,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sizes = (1,),
    padding: Sizes = (0,),
    dilation: Sizes = (1,),
    groups: int = 1,
) -> Value:
    return apply("Conv", x, weight, bias, **_geometry(x, stride, padding, dilation), group=groups)


def _transposed_convolution(
    kind: Type,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sizes = (1,),
    padding: Sizes = (0,),
    output_padding: Sizes = (0,),
    groups: int = 1,
    dilation: Sizes = (1,),
) -> Value:
    """Also the gradient of a convolution, whose output padding is what its strides left unread at the border."""
    geometry = _geometry(x, stride, padding, dilation)
    more = per_dim(output_padding, x.rank - 2)
    if all(o < t for o, t in zip(more, geometry["strides"], strict=True)):
        return apply("ConvTranspose", x, weight, bias, **geometry, output_padding=more, group=groups)
    return _widened(x, weight, bias, geometry, more, groups)


def _widened(
    x: Value, weight: Value, bias: Value | None, geometry: dict[str, list[int]], more: Sizes, groups: int
) -> Value:
    """Output padding as wide as a stride, which ONNX rules out: less is cut off behind, then zeros are added."""
    padding = geometry["pads"][: len(more)]
    geometry = geometry | {"pads": [*padding, *(max(0, p - o) for p, o in zip(padding, more, strict=True))]}
    narrow = replace(apply("ConvTranspose", x, weight, **geometry, group=groups), kind=x.kind)
    whole = padded(narrow, [0] * len(more), [max(0, o - p) for p, o in zip(padding, more, strict=True)])
    return whole if bias is None else whole + reshaped(bias, [-1, *[1] * len(more)])


def _geometry(x: Value, stride: Sizes, padding: Sizes, dilation: Sizes) -> dict[str, list[int]]:
    dims = x.rank - 2
    return {
        "strides": per_dim(stride, dims),
        "pads": per_dim(padding, dims) * 2,
        "dilations": per_dim(dilation, dims),
    }


def _matmul(kind: Type, a: Value, b: Value) -> Value:
    return apply("MatMul", a, b)


def _linear(kind: Type, x: Value, weight: Value, bias: Value | None = None) -> Value:
    if x.rank == 2:
        return apply("Gemm", x, weight, bias, transB=1)
    product = apply("MatMul", x, permuted(weight, [1, 0]))
    return product if bias is None else product + bias


def _batch_norm(
    kind: Type,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    """By stored statistics."""
    weight = weight or x.writer.constant(torch.ones(mean.shape, dtype=mean.dtype))
    bias = bias or x.writer.constant(torch.zeros(mean.shape, dtype=mean.dtype))
    return apply("BatchNormalization", x, weight, bias, mean, variance, epsilon=eps)


def _layer_norm(
    kind: Type,
    x: Value,
    shape: Sizes,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    return _affine(_standardised(x, range(-len(shape), 0), eps), weight, bias)


def _standardised(x: Value, dims: Sizes, eps: float) -> Value:
    centred = x - mean(x, dims)
    return centred / apply("Sqrt", mean(centred * centred, dims) + eps)


def _affine(x: Value, weight: Value | None, bias: Value | None) -> Value:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _group_norm(
    kind: Type,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    standardised = _standardised(reshaped(x, [0, groups, -1]), [-1], eps)
    weight, bias = (p and reshaped(p, [-1, *[1] * (x.rank - 2)]) for p in (weight, bias))
    return _affine(reshaped(standardised, [-1, *x.shape[1:]]), weight, bias)


def _rms_norm(kind: Type, x: Value, shape: Sizes, weight: Value | None = None, eps: float | None = None) -> Value:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    normalised = x / apply("Sqrt", mean(x * x, range(-len(shape), 0)) + eps)
    return _affine(normalised, weight, None)


LAYERS: dict[Callable[..., Any], Lowering] = {
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), _convolution),
    **dict.fromkeys(
        (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
        _transposed_convolution,
    ),
    aten.linear.default: _linear,
    **dict.fromkeys((aten.matmul.default, aten.bmm.default, aten.mm.default), _matmul),
    aten.batch_norm.default: _batch_norm,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.rms_norm.default: _rms_norm,
}
