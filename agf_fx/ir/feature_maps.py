"""Feature maps: which values have positions and channels, and which dimensions hold them.

Most are of the shape (N, C, *sizes) or (N, *sizes, C). A vision transformer has tokens (N, T, C) or (T, N, C): the
positions, row by row, and often a few others, such as a class token, which `agf_fx.ir.positions` tells apart.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

import torch
from torch import fx

from agf_fx.errors import OptionsError
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.places import Extent, Places
from agf_fx.ir.types import TensorType, carried_type
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, depends_on_images, is_parametrised, signals

aten = torch.ops.aten

_POOLINGS = (
    *(aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default, aten.avg_pool2d.default),
    *(aten.avg_pool3d.default, aten.max_pool2d.default, aten.max_pool3d.default),
)
_TOKENS = 3  # dimensions of (N, T, C)
_FLAT = 2  # of (N, features)


class FeatureMap(NamedTuple):
    """A value with positions and channels.

    Attributes:
        node: the value.
        channel: the dimension of the channels, once tokens are laid out.
        shape: of one image's part, once tokens are laid out: (C, *sizes) or (*sizes, C).
        first: of tokens, how many come before the positions; None where positions have dimensions of their own.
        batch: of tokens, the dimension of the batch: 0 in (N, T, C), 1 in (T, N, C).
        seen: the part of the images that it is computed from, along each of their dimensions.
    """

    node: fx.Node
    channel: int
    shape: tuple[int, ...]
    first: int | None = None
    batch: int = 0
    seen: tuple[Extent, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many positions there are along each dimension of the images."""
        return tuple(size for dim, size in enumerate(self.shape, 1) if dim != self.channel)

    @property
    def rank(self) -> int:
        """Number of dimensions with the batch, once tokens are laid out."""
        return len(self.shape) + 1


def feature_map(canonical: CanonicalGraph, node: fx.Node, places: Places | None = None) -> FeatureMap:
    """What ``node`` is as a feature map.

    Args:
        canonical: the graph.
        node: a value of it.
        places: those of the graph, if they are known.

    Raises:
        OptionsError: it is none: it has not the dimensions of the images, its channels are not known, or its positions
            do not lie as in the images.
    """
    found = _feature_map(node, places or Places(canonical))
    if found is None:
        _require_positions(canonical)
        raise OptionsError(
            f"layer {node.meta['module']!r} of {canonical.name} puts out {node.meta['type']}, which is no feature map "
            f"of {canonical.image_type.rank - 2} dimensions whose positions lie as in the images; name another layer."
        )
    return found


def last_feature_map(canonical: CanonicalGraph) -> FeatureMap:
    """The last feature map with several positions that everything behind it is computed from.

    Several of them are read there: behind the last attention of a vision transformer, all that is read is one token.

    Raises:
        OptionsError: there is none.
    """
    return last_of_each_size(canonical)[-1]


def last_of_each_size(canonical: CanonicalGraph, among: Container[object] | None = None) -> list[FeatureMap]:
    """Of the feature maps that everything behind them is computed from, the last of each size; in order of execution.

    Such are the outputs of a network's stages. The images themselves, normalised or moved, are none.

    Args:
        canonical: the graph.
        among: operations, of whose results they are, whatever else is computed beside these; None as said above.

    Raises:
        OptionsError: there is none.
    """
    places, inner = Places(canonical), _behind_layers(canonical)
    found: dict[tuple[int, ...], FeatureMap] = {}
    for node in reversed(canonical.calls):
        if among is not None and node.target not in among:
            continue
        each = _feature_map(node, places) if node in inner else None
        if each is None or each.sizes in found or max(each.sizes) == 1:
            continue
        decides = _decides(canonical, node) and (each.first is None or _several_are_read(node, places))
        if decides or among is not None:
            found[each.sizes] = each
    if not found:
        _require_positions(canonical)
        raise OptionsError(
            f"no {'value' if among is None else 'such layer'} of {canonical.name} is a feature map of "
            f"{canonical.image_type.rank - 2} dimensions that "
            "everything behind it is computed from; name a layer."
        )
    return list(reversed(found.values()))


def _require_positions(canonical: CanonicalGraph) -> None:
    """Refuse images of which maps of layers could have no positions."""
    if canonical.image_type.rank <= _FLAT:
        raise OptionsError(
            f"{canonical.name} takes images {canonical.image_type}, which have no positions that a layer's could lie "
            "as; give the part of the model behind its reshaping, or take a method that reaches the images."
        )


def _feature_map(node: fx.Node, places: Places) -> FeatureMap | None:
    kind = node.meta["type"]
    if not isinstance(kind, TensorType) or not depends_on_images(node):
        return None
    grid = places.grid(node)
    if grid is not None:
        return FeatureMap(
            node, len(grid.sizes) + 1, (*grid.sizes, kind.shape[-1]), grid.first, kind.batch_dim, places.seen(node)
        )
    if kind.rank != len(places.dims) + 2 or not kind.batched:
        return None
    likely = channels_of(node)  # where a dimension of positions has one entry, it could be that of channels
    dims = sorted(range(1, kind.rank), key=lambda dim: dim != likely)
    channel = next((dim for dim in dims if places.lie_as_in_images(node, dim)), None)
    return None if channel is None else FeatureMap(node, channel, tuple(kind.shape[1:]), seen=places.seen(node))


def _several_are_read(node: fx.Node, places: Places) -> bool:
    """Whether more than one token is read behind functions of single tokens."""
    pending, seen = [node], {node}
    while pending:
        value = pending.pop()
        tokens = 1 - carried_type(value).batch_dim
        for reader in value.users:
            if reader in seen or reader.op != "call_function":
                continue
            seen.add(reader)
            if places.grid(reader) and not (reader.target is aten.matmul.default and len(signals(reader)) > 1):
                pending.append(reader)
            elif reader.target not in (aten.select.int, aten.slice.Tensor) or reader.args[1] % _TOKENS != tokens:
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


def _behind_layers(canonical: CanonicalGraph) -> set[fx.Node]:
    """What is computed by a layer with parameters, or from what one has computed."""
    found: set[fx.Node] = set()
    for node in filter(depends_on_images, canonical.calls):
        if is_parametrised(node) or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found
