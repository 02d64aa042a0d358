"""Layers and normalisations on arrays of symbolic numbers, as they are defined, with the arguments of ATen."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from agf_fx.inspect.certificates.arrays import averaged, pad, rsqrt
from agf_fx.inspect.certificates.numbers import greater, number

Array = np.ndarray
Sizes = Sequence[int]


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """W x + b."""
    y = x @ weight.T
    return y if bias is None else y + bias


def conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Sizes = (1,),
    padding: Sizes = (0,),
    dilation: Sizes = (1,),
    groups: int = 1,
) -> Array:
    """A convolution over one dimension, as it is defined."""
    (t,), (p,), (d,), (outputs, inputs, k) = stride, padding, dilation, weight.shape
    x = pad(x, [p, p])
    length = (x.shape[2] - d * (k - 1) - 1) // t + 1
    y = np.full((x.shape[0], outputs, length), number(0), dtype=object)
    for n, o, u in np.ndindex(*y.shape):
        first = o // (outputs // groups) * inputs
        for c, i in np.ndindex(inputs, k):
            y[n, o, u] = y[n, o, u] + weight[o, c, i] * x[n, first + c, u * t + i * d]
    return y if bias is None else y + bias[:, None]


def conv_transpose1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Sizes = (1,),
    padding: Sizes = (0,),
    output_padding: Sizes = (0,),
    groups: int = 1,
    dilation: Sizes = (1,),
) -> Array:
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


def max_pool2d(x: Array, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> tuple[Array, Array]:
    """The largest of every window of (N, C, H, W), without padding; and no indices, which nobody reads."""
    sizes = [
        (size - d * (k - 1) - 1) // t + 1 for size, k, t, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)
    ]
    y = np.empty((*x.shape[:2], *sizes), dtype=object)
    for n, c, u, v in np.ndindex(*y.shape):
        (t, s), (d, e) = stride, dilation
        window = (x[n, c, u * t + i * d, v * s + j * e] for i, j in np.ndindex(*kernel))
        y[n, c, u, v] = functools.reduce(greater, window)
    return y, y


def _per_channel(value: Array, rank: int) -> Array:
    return value.reshape(-1, *[1] * (rank - 2))


def batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    mean: Array,
    variance: Array,
    training: bool,
    momentum: float,
    eps: Any,
    enabled: bool,
) -> Array:
    """With stored statistics."""
    y = (x - _per_channel(mean, x.ndim)) * _per_channel(rsqrt(variance + eps), x.ndim)
    y = y if weight is None else y * _per_channel(weight, x.ndim)
    return y if bias is None else y + _per_channel(bias, x.ndim)


def _standardised(x: Array, dims: list[int], eps: Any, *, centred: bool = True) -> Array:
    c = x - averaged(x, dims, True) if centred else x
    return c * rsqrt(averaged(c * c, dims, True) + eps)


def layer_norm(x: Array, shape: Sizes, weight: Array | None, bias: Array | None, eps: Any, enabled: bool) -> Array:
    """Over the last dimensions."""
    y = _standardised(x, list(range(-len(shape), 0)), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def group_norm(x: Array, groups: int, weight: Array | None, bias: Array | None, eps: Any, enabled: bool) -> Array:
    """Over groups of channels."""
    y = _standardised(x.reshape(x.shape[0], groups, -1), [-1], eps).reshape(x.shape)
    y = y if weight is None else y * _per_channel(weight, x.ndim)
    return y if bias is None else y + _per_channel(bias, x.ndim)


def rms_norm(x: Array, shape: Sizes, weight: Array | None, eps: Any) -> Array:
    """Without centring."""
    y = _standardised(x, list(range(-len(shape), 0)), eps, centred=False)
    return y if weight is None else y * weight
