"""Where in the images the entries of a value are: the middle of what each of them has seen, in pixels.

The graph is run on coordinates in the place of pixels: what moves entries moves their coordinates, a window has those
of its middle, and what mixes positions, such as attention, has those of what it is added to. Entries that come of
parameters alone, such as a class token, and of operations that may put entries anywhere, such as a sort, have none:
they are NaN.
"""

from __future__ import annotations

import operator
from typing import Any

import sympy
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from agf_fx.ir.axes import REDUCTIONS
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import BATCH, TensorType, carried_type
from agf_fx.ir.vocabulary import (
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    VOCABULARY,
    Family,
    depends_on_images,
    family_of,
    signals,
)

aten = torch.ops.aten

_MOVING = {
    *(aten.reshape.default, aten.permute.default, aten.expand.default, aten.slice.Tensor, aten.select.int),
    *(aten.roll.default, aten.index_select.default, aten.flip.default, aten.gather.default, aten.im2col.default),
    *(aten.unfold.default, aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.channel_shuffle.default),
    *(aten.repeat.default, aten.index.Tensor, aten.diagonal.default, aten.rot90.default),
    *(aten.upsample_linear1d.default, aten.upsample_bilinear2d.default, aten.upsample_trilinear3d.default),
}
_WINDOWS = {
    *(aten.avg_pool2d.default, aten.avg_pool3d.default, aten.adaptive_avg_pool2d.default),
    *(aten.adaptive_avg_pool3d.default, aten.col2im.default),
}
_MAXIMA = {
    *(aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default),
    *(aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default),
}
_ENTRIES = {Family.PASS_THROUGH, Family.MERGE, Family.PRODUCT, Family.JOINT, Family.SOFT_MAXIMUM}
_SAME = {aten.softmax.int, aten.log_softmax.int, aten.to.dtype, aten.masked_fill.Scalar, aten.where.self}
_APART = 0.6  # of the distance of neighbours: so far from each other may be what is added up


def positions(canonical: CanonicalGraph, dim: int) -> dict[fx.Node, Tensor]:
    """The coordinate of every value that depends on the images along their dimension ``dim``: (1, ...), float32."""
    kind = canonical.image_type
    line = torch.arange(kind.shape[dim], dtype=torch.float32).reshape([-1] + [1] * (kind.rank - dim - 1))
    known: dict[fx.Node, Any] = {canonical.images: line.expand(1, *kind.sample_shape)}
    of_images = {canonical.images}
    for node in canonical.graph.nodes:
        if node.op == "placeholder" and node is not canonical.images:
            known[node] = canonical.signature.constants.get(node.name)
        elif node.op == "call_function":
            if of_images.intersection(node.all_input_nodes) and isinstance(node.meta["type"], TensorType | tuple):
                of_images.add(node)
            if depends_on_images(node):
                known[node] = _followed(node, known)
            else:  # an index or a step that the images decide is unknown before there are any
                known[node] = None if node in of_images else _computed(node, known)
    return {node: value for node, value in known.items() if depends_on_images(node) and isinstance(value, Tensor)}


def _computed(node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """What a call gives for what is known; None where something is not."""
    if any(known[source] is None for source in node.all_input_nodes):
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
    return node.target(*args, **kwargs)


def _followed(node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """The coordinates of a call; of one with several results a tuple, of which the first has some."""
    if node.target is operator.getitem:
        source, index = node.args
        return known[source][index] if isinstance(known[source], tuple) else known[source]
    kind = carried_type(node)
    if not isinstance(kind, TensorType):
        return _computed(node, known)
    shape = _numbers(kind)
    found = _of(node, known, shape)
    found = torch.full((1,), torch.nan, dtype=torch.float32).expand(shape) if found is None else found
    return (found, *[None] * (len(node.meta["type"]) - 1)) if isinstance(node.meta["type"], tuple) else found


def _numbers(kind: TensorType) -> list[int]:
    """The shape for one image."""
    return [int(sympy.sympify(size).subs(BATCH, 1)) for size in kind.shape]


def _of(node: fx.Node, known: dict[fx.Node, Any], shape: list[int]) -> Tensor | None:
    """The coordinates of a result of this shape; None where nothing is known."""
    target, read = node.target, [known[signal] for signal in signals(node)]
    if not read or not all(isinstance(value, Tensor) for value in read):
        return None
    x = read[0]
    if target is aten.cat.default:
        return _joined(node, known)
    if target in _MOVING:
        return _computed(node, known)
    if target is aten.constant_pad_nd.default:
        return F.pad(x, node.args[1], value=torch.nan)
    if target in CONVOLUTIONS:
        return _middles(x, node).expand(shape)
    if target in TRANSPOSED_CONVOLUTIONS:
        mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.dim()]
        return F.interpolate(_mean(x, 1), shape[2:], mode=mode).expand(shape)
    if target in _WINDOWS or target in _MAXIMA:
        return _pooled(node, x, shape)
    if target in REDUCTIONS:
        return _mean(x, node.args[REDUCTIONS[target]]).reshape(shape)
    if target is aten.linear.default:
        return _mean(x, -1).expand(shape)
    if target is aten.matmul.default:
        return _product(node, known, shape)
    if target in _SAME or _entry_by_entry(node):
        return _together(read, shape)
    return None


def _entry_by_entry(node: fx.Node) -> bool:
    known = node.target in VOCABULARY and family_of(node) in _ENTRIES
    return known or torch.Tag.pointwise in getattr(node.target, "tags", ())


def _joined(node: fx.Node, known: dict[fx.Node, Any]) -> Tensor:
    """Beside what comes of parameters alone, which is nowhere."""
    parts = []
    for part in node.args[0]:
        if depends_on_images(part):
            parts.append(known[part])
        else:
            parts.append(torch.full((1,), torch.nan, dtype=torch.float32).expand(_numbers(carried_type(part))))
    return torch.cat(parts, *node.args[1:])


def _middles(x: Tensor, node: fx.Node) -> Tensor:
    """The middle of the window of every position of a convolution, (1, 1, *positions), also where that is padding."""
    sizes = carried_type(node.args[1]).shape[2:]
    given = (node.args[place] if len(node.args) > place else usual for place, usual in _DEFAULTS)
    stride, padding, dilation = ([value] * len(sizes) if isinstance(value, int) else value for value in given)
    x, middle = _mean(x, 1), x.new_ones(())
    for dim, (size, beyond) in enumerate(zip(sizes, padding, strict=True), 2):
        taps = x.new_zeros(size)
        taps[(size - 1) // 2], taps[size // 2] = 1, 1
        middle, x = middle[..., None] * taps, _extended(x, dim, beyond)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(sizes) - 1]
    above, below = (
        convolve(part, middle[None, None], stride=stride, dilation=dilation)
        for part in (x.nan_to_num(0), x.isfinite().to(x))
    )
    return above / below


def _extended(x: Tensor, dim: int, beyond: int) -> Tensor:
    """Coordinates that go on at both ends of a dimension as they begin and end there."""
    last = x.shape[dim] - 1
    if not beyond or not last:
        return torch.cat([x.narrow(dim, 0, 1)] * beyond + [x] + [x.narrow(dim, last, 1)] * beyond, dim)
    steps = torch.arange(1, beyond + 1, dtype=x.dtype).reshape([-1] + [1] * (x.dim() - dim - 1))
    ends = x.narrow(dim, 0, 1), x.narrow(dim, last, 1)
    before = ends[0] - steps.flip(0) * (x.narrow(dim, 1, 1) - ends[0])
    after = ends[1] + steps * (ends[1] - x.narrow(dim, last - 1, 1))
    return torch.cat([before, x, after], dim)


_DEFAULTS = (3, 1), (4, 0), (5, 1)  # stride, padding and dilation among the arguments of a convolution


def _pooled(node: fx.Node, x: Tensor, shape: list[int]) -> Tensor:
    """The means of windows; of maxima, the middle between the smallest and the largest coordinate."""
    target, rest = node.target, node.args[1:]
    if target is not aten.col2im.default and x.dim() == len(shape) and x.stride(1) == 0:
        x = x[:, :1]
    if target in _MAXIMA:
        ends = [sign * target((sign * x).nan_to_num(-torch.inf), *rest)[0] for sign in (1, -1)]
        found = (ends[0] + ends[1]) / 2
    else:
        found = target(x.nan_to_num(0), *rest) / target(x.isfinite().to(x), *rest)
    return found.masked_fill(~found.isfinite(), torch.nan).expand(shape)


def _product(node: fx.Node, known: dict[fx.Node, Any], shape: list[int]) -> Tensor | None:
    """Those of the rows of the first matrix, which say what the second is read for, such as queries; or if these are
    nowhere in particular, of the columns of the second. By a known matrix, weighted means."""
    a, b = node.args
    values = known[a], known[b]
    if min(carried_type(a).rank, carried_type(b).rank) < 2:
        return None
    if depends_on_images(a) and depends_on_images(b):
        rows, columns = _mean(values[0], -1), _mean(values[1], -2)
        return (rows if _varies(rows) else columns).expand(shape)
    moved, fixed = values if depends_on_images(a) else values[::-1]
    if fixed is None:
        return _mean(moved, -1 if depends_on_images(a) else -2).expand(shape)
    parts, weights = (moved.nan_to_num(0), moved.isfinite().to(moved)), fixed.abs().to(moved)
    above, below = (part @ weights if depends_on_images(a) else weights @ part for part in parts)
    return above / below


def _together(read: list[Tensor], shape: list[int]) -> Tensor:
    """Of values that meet entry by entry: the coordinates of those that say where, if they say the same."""
    telling = [value for value in read if _varies(value)] or read[:1]
    found = telling[0].expand(shape)
    for other in telling[1:]:
        found = _agreed(found, other.expand(shape))
    return found


def _varies(values: Tensor) -> bool:
    finite = values[values.isfinite()]
    return bool(finite.numel()) and float(finite.max() - finite.min()) > 1e-3


def _agreed(a: Tensor, b: Tensor) -> Tensor:
    """The coordinates ``a``; none where those of ``b`` are others."""
    if torch.equal(a, b):
        return a
    apart = (a - b).abs()
    if float(apart.nan_to_num(0).max()) > 1e-3:
        places = a[a.isfinite()].unique()
        apart = apart / (places.diff().median() if len(places) > 1 else 1) - _APART
    return a.masked_fill(~(apart <= 0.001), torch.nan)


def _mean(x: Tensor, dims: int | list[int]) -> Tensor:
    """The mean of what is known, dimensions kept."""
    if isinstance(dims, int) and x.stride(dims) == 0:
        return x.narrow(dims, 0, 1)
    return x.nanmean(dims, keepdim=True)
