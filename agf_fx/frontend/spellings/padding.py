"""Zero padding in front of a convolution, as the convolution's own, and joined zeros as padding.

A rule reads a layer's input: its extremes, how it divides up, where it is not 0. Zeros that were written into it are no
part of the image, or of the map. Padding that differs between the sides becomes that of a larger kernel, whose
further weights are 0: the same linear map, of which no rule can tell the difference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import become, give_way, insert, kind_of
from agf_fx.frontend.rewrites.values import is_call, number_of
from agf_fx.ir.vocabulary import CONVOLUTIONS, depends_on_images

aten = torch.ops.aten

# Functions of one entry that are 0 where it is.
_ZERO_AT_ZERO = (
    *(aten.relu.default, aten.neg.default, aten.abs.default, aten.gelu.default, aten.silu.default, aten.tanh.default),
    *(aten.hardswish.default, aten.leaky_relu.default, aten.elu.default, aten.mish.default),
)


def fold_padding(node: fx.Node) -> None:
    """Write zeros around a map as padding, and padding in front of a convolution as the convolution's."""
    if is_call(node, aten.cat.default):
        _joined_zeros(node)
    elif is_call(node, aten.constant_pad_nd.default):
        _of_padding(node)
    elif is_call(node, aten.slice.Tensor):
        _part_of_padded(node)
    elif is_call(node, *CONVOLUTIONS):
        _of_convolution(node)


def _joined_zeros(node: fx.Node) -> None:
    items, dim = node.args
    signals = [i for i, item in enumerate(items) if number_of(item) != 0]
    first, last = signals[0], signals[-1]
    sizes = [kind_of(item).shape[dim] for item in items]
    if last - first + 1 == len(items) or not all(isinstance(size, int) for size in sizes):
        return
    inside = items[first : last + 1]
    x = inside[0] if len(inside) == 1 else insert(node, aten.cat.default, inside, dim)
    if kind_of(x).dtype is kind_of(node).dtype and kind_of(x).batch_dim == kind_of(node).batch_dim:
        widths = [0] * (2 * (kind_of(x).rank - dim))
        widths[-2:] = [sum(sizes[:first]), sum(sizes[last + 1 :])]
        become(node, aten.constant_pad_nd.default, x, widths, 0)
        _of_padding(node)


def _of_padding(node: fx.Node) -> None:
    """Zeros around zeros as one padding."""
    x, widths, value = node.args
    if number_of(value) == 0 and is_call(x, aten.constant_pad_nd.default) and number_of(x.args[2]) == 0:
        inner = x.args[1]
        if min(*widths, *inner) >= 0:
            longest = max(len(widths), len(inner))
            both = zip(*([*pads, *[0] * (longest - len(pads))] for pads in (widths, inner)), strict=True)
            become(node, aten.constant_pad_nd.default, x.args[0], [a + b for a, b in both], 0)


def _part_of_padded(node: fx.Node) -> None:
    """A slice that takes padding away again as less padding; below 0 it takes away of the map."""
    x, dim, start, end, step = node.args
    if is_call(x, aten.constant_pad_nd.default) and number_of(x.args[2]) == 0 and step == 1:
        position = 2 * (kind_of(x).rank - 1 - dim)
        if position < len(x.args[1]) and isinstance(kind_of(x).shape[dim], int):
            widths = list(x.args[1])
            widths[position] -= start
            widths[position + 1] -= kind_of(x).shape[dim] - end
            own = kind_of(x.args[0]).shape[dim]
            if not isinstance(own, int) or own + min(widths[position], 0) + min(widths[position + 1], 0) < 1:
                return  # padding alone
            become(node, aten.constant_pad_nd.default, x.args[0], widths, 0)


def _of_convolution(node: fx.Node) -> None:
    found = _padded(node, node.args[0])
    if found is None:
        return
    x, widths = found
    dims = kind_of(x).rank
    sides = [(widths[2 * i], widths[2 * i + 1]) if 2 * i < len(widths) else (0, 0) for i in range(dims)][::-1]
    if any(sides[0]) or (any(sides[1]) and node.args[6] != 1):
        return
    x = _cropped(node, x, [(max(0, -before), max(0, -after)) for before, after in sides])
    sides = [(max(0, before), max(0, after)) for before, after in sides]
    _, weight, bias, stride, padding, dilation, groups = node.args
    weight = _cropped(node, weight, [(0, 0), sides[1]])
    padding = [(before + p, after + p) for (before, after), p in zip(sides[2:], padding, strict=True)]
    even, weight = _evened(node, weight, padding, dilation)
    settings = (weight, bias, stride, even, dilation, groups)
    result = insert(node, node.target, x, *settings)
    for dim in range(2, dims):  # a dilated kernel may have been enlarged by less than the difference of the sides
        size = kind_of(node).shape[dim]
        if kind_of(result).shape[dim] != size:
            result = insert(node, aten.slice.Tensor, result, dim, 0, size, 1)
    give_way(node, result)


def _padded(before: fx.Node, value: Any) -> tuple[fx.Node, list[int]] | None:
    """What ``value`` is before zeros are put around it, and how many; it may be moved or rectified in between."""
    if is_call(value, aten.constant_pad_nd.default):
        return (value.args[0], list(value.args[1])) if number_of(value.args[2]) == 0 else None
    if is_call(value, aten.permute.default):
        found = _padded(before, value.args[0])
        if found is None:
            return None
        x, widths = found
        order, rank = value.args[1], kind_of(value).rank
        pairs = [(widths[2 * i], widths[2 * i + 1]) if 2 * i < len(widths) else (0, 0) for i in range(rank)][::-1]
        widths = [width for dim in reversed(order) for width in pairs[dim]]
        return insert(before, aten.permute.default, x, order), widths
    scaled = is_call(value, aten.mul.Tensor, aten.div.Tensor) and number_of(value.args[1]) is not None
    if (scaled and depends_on_images(value.args[0])) or is_call(value, *_ZERO_AT_ZERO):
        found = _padded(before, value.args[0])
        if found is None:
            return None
        inner = insert(before, value.target, found[0], *value.args[1:])
        inner.kwargs = value.kwargs
        return inner, found[1]
    return None


def _cropped(before: fx.Node, value: fx.Node, sides: list[tuple[int, int]]) -> fx.Node:
    """Without so many entries at the start and the end of each dimension."""
    for dim, (start, end) in enumerate(sides):
        if start or end:
            value = insert(before, aten.slice.Tensor, value, dim, start, kind_of(value).shape[dim] - end, 1)
    return value


def _evened(
    before: fx.Node, weight: fx.Node, padding: list[tuple[int, int]], dilation: list[int]
) -> tuple[list[int], fx.Node]:
    """Padding that is the same at both sides, and the kernel enlarged by zeros in its place."""
    even, widths = [], []
    for (start, end), step in zip(padding, dilation, strict=True):
        more = max(0, -(-(end - start) // step))  # kernel entries in front
        side = start + more * step
        even.append(side)
        widths.append((more, (side - end) // step))
    if not any(map(any, widths)):
        return even, weight
    flat = [width for pair in reversed(widths) for width in pair]
    return even, insert(before, aten.constant_pad_nd.default, weight, flat, 0)
