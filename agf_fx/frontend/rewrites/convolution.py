"""Convolutions: every setting per dimension, padding as numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import become, insert, kind_of, per_dimension
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS

aten = torch.ops.aten


def _convolution(node: fx.Node) -> None:
    x, weight, bias, stride, padding, dilation, groups = node.args
    dims = kind_of(weight).rank - 2
    stride, padding, dilation = (per_dimension(value, dims) for value in (stride, padding, dilation))
    node.args = (x, weight, bias, stride, padding, dilation, groups)


def _transposed_convolution(node: fx.Node) -> None:
    x, weight, bias, stride, padding, output_padding, groups, dilation = node.args
    dims = kind_of(weight).rank - 2
    settings = (per_dimension(value, dims) for value in (stride, padding, output_padding))
    node.args = (x, weight, bias, *settings, groups, per_dimension(dilation, dims))


def _named_padding(convolution: torch._ops.OpOverload) -> Callable[[fx.Node], None]:
    """ "valid" is no padding; "same" keeps the size, with the odd one of an uneven number of zeros at the end."""

    def rewrite(node: fx.Node) -> None:
        x, weight, bias, stride, padding, dilation, groups = node.args
        kernel = kind_of(weight).shape[2:]
        dilation = per_dimension(dilation, len(kernel))
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        if any(size % 2 for size in total):
            widths = [width for size in reversed(total) for width in (size // 2, size - size // 2)]
            x, total = insert(node, aten.constant_pad_nd.default, x, widths, 0), [0] * len(total)
        sides = [size // 2 for size in total]
        become(node, convolution, x, weight, bias, per_dimension(stride, len(kernel)), sides, dilation, groups)

    return rewrite


def _any_convolution(node: fx.Node) -> None:
    """What decompositions write for every convolution."""
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
    dims = kind_of(weight).rank - 2
    if not 1 <= dims <= len(CONVOLUTIONS):
        return
    if transposed:
        become(
            node, TRANSPOSED_CONVOLUTIONS[dims - 1], x, weight, bias, stride, padding, output_padding, groups, dilation
        )
        _transposed_convolution(node)
    else:
        become(node, CONVOLUTIONS[dims - 1], x, weight, bias, stride, padding, dilation, groups)
        _convolution(node)


CONVOLUTION: dict[Callable[..., object], Callable[[fx.Node], None]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(TRANSPOSED_CONVOLUTIONS, _transposed_convolution),
    aten.convolution.default: _any_convolution,
    aten.conv1d.padding: _named_padding(aten.conv1d.default),
    aten.conv2d.padding: _named_padding(aten.conv2d.default),
    aten.conv3d.padding: _named_padding(aten.conv3d.default),
}
