"""Feature maps: which values have positions and channels, and which dimensions hold them.

Most are of the shape (N, C, *sizes) or (N, *sizes, C). A vision transformer has tokens (N, T, C): the positions,
row by row, and often a few others, such as a class token, which `agf_fx.ir.axes` tells apart.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx

from agf_fx.errors import OptionsError
from agf_fx.ir.axes import Dimension, axes, sources
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import TensorType, carried_type
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, depends_on_images, signals

aten = torch.ops.aten

_POOLINGS = (
    *(aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default, aten.avg_pool2d.default),
    *(aten.avg_pool3d.default, aten.max_pool2d.default, aten.max_pool3d.default),
)
_TOKENS = 3  # dimensions of (N, T, C)


class FeatureMap(NamedTuple):
    """A value with positions and channels.

    Attributes:
        node: the value.
        channel: the dimension of the channels, once tokens are laid out.
        shape: of one image's part, once tokens are laid out: (C, *sizes) or (*sizes, C).
        first: of tokens, how many come before the positions; None where positions have dimensions of their own.
    """

    node: fx.Node
    channel: int
    shape: tuple[int, ...]
    first: int | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many positions there are along each dimension of the images."""
        return tuple(size for dim, size in enumerate(self.shape, 1) if dim != self.channel)

    @property
    def rank(self) -> int:
        """Number of dimensions with the batch, once tokens are laid out."""
        return len(self.shape) + 1


class _Grid(NamedTuple):
    """Where the positions are among tokens: how many come before, and how many there are along each dimension."""

    first: int
    sizes: tuple[int, ...]


def feature_map(canonical: CanonicalGraph, node: fx.Node) -> FeatureMap:
    """What ``node`` is as a feature map.

    Raises:
        OptionsError: it is none: it has not the dimensions of the images, its channels are not known, or its tokens are
            not positions of the images.
    """
    found = _feature_map(canonical, node, _grids(canonical))
    if found is None:
        raise OptionsError(
            f"layer {node.meta['module']!r} of {canonical.name} puts out {node.meta['type']}, which is no feature map "
            f"of {canonical.image_type.rank - 2} dimensions; name another layer."
        )
    return found


def last_feature_map(canonical: CanonicalGraph) -> FeatureMap:
    """The last feature map with several positions that everything behind it is computed from.

    Several of them are read there: behind the last attention of a vision transformer, all that is read is one token.

    Raises:
        OptionsError: there is none.
    """
    return last_of_each_size(canonical)[-1]


def last_of_each_size(canonical: CanonicalGraph) -> list[FeatureMap]:
    """Of the feature maps that everything behind them is computed from, the last of each size; in order of execution.

    Such are the outputs of a network's stages.

    Raises:
        OptionsError: there is none.
    """
    grids = _grids(canonical)
    found: dict[tuple[int, ...], FeatureMap] = {}
    for node in reversed(canonical.calls):
        each = _feature_map(canonical, node, grids)
        if each is None or each.sizes in found or max(each.sizes) == 1:
            continue
        if _decides(canonical, node) and (each.first is None or _several_are_read(node, grids)):
            found[each.sizes] = each
    if not found:
        raise OptionsError(
            f"no value of {canonical.name} is a feature map of {canonical.image_type.rank - 2} dimensions that "
            "everything behind it is computed from; name a layer."
        )
    return list(reversed(found.values()))


def _feature_map(canonical: CanonicalGraph, node: fx.Node, grids: dict[fx.Node, _Grid]) -> FeatureMap | None:
    kind = node.meta["type"]
    if not isinstance(kind, TensorType) or not kind.batched or not depends_on_images(node):
        return None
    channel = channels_of(node) if kind.rank in (_TOKENS, canonical.image_type.rank) else None
    if channel is None:
        return None
    if kind.rank == _TOKENS and node in grids and channel == _TOKENS - 1:
        first, sizes = grids[node]
        return FeatureMap(node, len(sizes) + 1, (*sizes, kind.shape[-1]), first)
    return FeatureMap(node, channel, tuple(kind.shape[1:])) if kind.rank == canonical.image_type.rank else None


def _grids(canonical: CanonicalGraph) -> dict[fx.Node, _Grid]:
    """Of the values (N, T, ...) whose tokens are positions of the images, with or without others, where these are."""
    known, spatial = axes(canonical), range(2, canonical.image_type.rank)
    if canonical.image_type.rank < _TOKENS:
        return {}
    found: dict[fx.Node, _Grid] = {}
    for node, dimensions in known.items():
        kind = node.meta["type"]
        if isinstance(kind, TensorType) and kind.batched and kind.rank == _TOKENS:
            grid = _grid_of(node, dimensions[1], [frozenset({dim}) for dim in spatial], found)
            if grid is not None:
                found[node] = grid
    return found


def _grid_of(node: fx.Node, tokens: Dimension, spatial: list[frozenset], found: dict[fx.Node, _Grid]) -> _Grid | None:
    if sources(tokens) != frozenset().union(*spatial):
        return None
    if node.target is aten.cat.default:
        return _beside_others(node, found)
    if node.target is aten.slice.Tensor:
        return _cut_out(node, found)
    length = carried_type(node).shape[1]
    alike = [source for source in signals(node) if source in found and carried_type(source).shape[1] == length]
    if alike:
        return found[alike[0]]
    exact = [axis.sources for axis in tokens] == spatial
    return _Grid(0, tuple(axis.size for axis in tokens)) if exact else None


def _beside_others(node: fx.Node, found: dict[fx.Node, _Grid]) -> _Grid | None:
    """Tokens put beside others, such as a class token."""
    parts, dim = node.args
    if dim % _TOKENS != 1:
        return found.get(parts[0])
    before = 0
    for part in parts:
        if part in found:
            return _Grid(before + found[part].first, found[part].sizes)
        before += part.meta["type"].shape[1]
    return None


def _cut_out(node: fx.Node, found: dict[fx.Node, _Grid]) -> _Grid | None:
    """Some of the tokens, if all positions are among them."""
    source, dim, start, end, step = node.args
    if source not in found or step != 1:
        return None
    first, sizes = found[source]
    if dim % _TOKENS != 1:
        return found[source]
    return _Grid(first - start, sizes) if start <= first and end >= first + torch.Size(sizes).numel() else None


def _several_are_read(node: fx.Node, grids: dict[fx.Node, _Grid]) -> bool:
    """Whether more than one token is read behind functions of single tokens."""
    pending, seen = [node], {node}
    while pending:
        value = pending.pop()
        for reader in value.users:
            if reader in seen or reader.op != "call_function":
                continue
            seen.add(reader)
            if reader in grids and not (reader.target is aten.matmul.default and len(signals(reader)) > 1):
                pending.append(reader)
            elif not (reader.target in (aten.select.int, aten.slice.Tensor) and reader.args[1] % _TOKENS == 1):
                return True
    return False


def channels_of(node: fx.Node) -> int | None:
    """The dimension of a feature map that holds channels, by the layers that made it, or else by those that read it.

    None where neither tells.
    """
    made = _channels_made(node)
    return _channels_read(node) if made is None else made


def _channels_read(node: fx.Node) -> int | None:
    """By what convolutions, norms and linear layers read of it, behind functions of single entries."""
    pending, seen = [node], set()
    while pending:
        value = pending.pop(0)
        for reader in value.users:
            kind = reader.meta.get("type")
            if reader in seen or not isinstance(kind, TensorType) or reader.op != "call_function":
                continue
            seen.add(reader)
            if reader.target in (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, aten.batch_norm.default, *_POOLINGS):
                return 1
            if reader.target in (aten.linear.default, aten.layer_norm.default):
                return carried_type(value).rank - 1
            if reader.target is aten.mean.dim and len(reader.args[1]) == _rank(value) - 2:
                (left,) = {*range(1, _rank(value))} - {dim % _rank(value) for dim in reader.args[1]}
                return left
            if kind.shape == carried_type(value).shape:
                pending.append(reader)
    return None


def _rank(node: fx.Node) -> int:
    return carried_type(node).rank


def _channels_made(node: fx.Node) -> int | None:
    dim, reading = None, node
    turned: list[list[int]] = []
    while True:
        if reading.target in (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, aten.batch_norm.default):
            dim = 1
        elif reading.target in (aten.linear.default, aten.layer_norm.default):
            dim = carried_type(reading).rank - 1
        if dim is not None:
            for order in reversed(turned):
                dim = order.index(dim)
            return dim
        if reading.target is aten.permute.default:
            turned.append([axis % len(reading.args[1]) for axis in reading.args[1]])
        elif reading.op != "call_function" or reading.target is aten.reshape.default:
            return None
        kept = [source for source in signals(reading) if _rank(source) == _rank(reading)]
        alike = [source for source in kept if carried_type(source).shape == carried_type(reading).shape]
        if not kept:
            return None
        reading = (alike or kept)[0]


def _decides(canonical: CanonicalGraph, node: fx.Node) -> bool:
    """Whether the logits depend on the images through ``node`` alone."""
    seen, pending = {node}, [canonical.logits]
    while pending:
        reading = pending.pop()
        if reading is canonical.images:
            return False
        if reading not in seen:
            seen.add(reading)
            pending.extend(source for source in reading.all_input_nodes if depends_on_images(source))
    return True
