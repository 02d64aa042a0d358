"""Which values have the positions of the images, in their order: those that can be read as maps."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, fx

from agf_fx.ir.facts import UNCLEAR, facts
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.positions import positions
from agf_fx.ir.types import BATCH, TensorType
from agf_fx.ir.vocabulary import signals

_APART = 0.6  # of the distance of neighbours: so far may windows at an edge be from where they would be elsewhere
_ASIDE = 0.75  # of that distance: so far may their middle be from that of the image, as strides shift it
_COVERED = 0.5, 2.0  # of what is seen of the image, by positions and their distance


class Grid(NamedTuple):
    """Where the positions are among tokens: how many come before, and how many there are along each dimension."""

    first: int
    sizes: tuple[int, ...]


class Extent(NamedTuple):
    """A range of pixels along a dimension: from ``start`` to the one before ``stop``."""

    start: int
    stop: int


def image_channel(canonical: CanonicalGraph) -> int | None:
    """The dimension of the images that maps of inner layers lack: that of channels, 1 where the graph does not tell."""
    channel = facts(canonical.images).channel_dim
    return channel if canonical.analysed and channel != UNCLEAR else 1


class Places:
    """Where the entries of all values of a graph are in the images.

    Attributes:
        dims: the images' dimensions that maps have.
    """

    def __init__(self, canonical: CanonicalGraph) -> None:
        shape, channel = canonical.image_type.shape, image_channel(canonical)
        self._first_layers = [node for node in canonical.calls if facts(node).input_layer]
        self._seen: dict[fx.Node, tuple[Extent, ...]] = {}
        self.dims = tuple(dim for dim in range(1, len(shape)) if dim != channel)
        self._lengths = tuple(shape[dim] for dim in self.dims)
        self._coordinates = [positions(canonical, dim) for dim in self.dims]
        self._grids: dict[fx.Node, Grid | None] = {}

    def lie_as_in_images(self, node: fx.Node, channel: int) -> bool:
        """Whether the dimensions of a value but the batch and ``channel`` are those of the images, in their order."""
        return self._regular(node, [of[node][0].movedim(channel - 1, -1) for of in self._coordinates])

    def seen(self, node: fx.Node) -> tuple[Extent, ...]:
        """The part of the images that a value is computed from, along each of `dims`; all but of a model that crops.

        It is what the first layers in front of the value read.
        """
        if node not in self._seen:
            before = _with_all_before(node)
            read = [signals(layer)[0] for layer in self._first_layers if layer in before]
            rows = zip(self._coordinates, self._lengths, strict=True)
            self._seen[node] = tuple(_extent([of[each] for each in read if each in of], length) for of, length in rows)
        return self._seen[node]

    def grid(self, node: fx.Node) -> Grid | None:
        """Of tokens (N, T, C) or (T, N, C), where the positions are, row by row; None where they are no positions."""
        if node not in self._grids:
            self._grids[node] = self._found(node)
        return self._grids[node]

    def _found(self, node: fx.Node) -> Grid | None:
        kind = node.meta.get("type")
        if not isinstance(kind, TensorType) or kind.rank != 3 or node not in self._coordinates[0]:
            return None
        if kind.batch_dim not in (0, 1) or kind.shape[kind.batch_dim] != BATCH:
            return None
        tokens = [of[node].squeeze(kind.batch_dim) for of in self._coordinates]
        known = torch.stack([value.isfinite().all(1) for value in tokens]).all(0).nonzero()[:, 0]
        if not len(known) or int(known[-1] - known[0]) + 1 != len(known):
            return None
        first = int(known[0])
        inside = [value[first : first + len(known)] for value in tokens]
        sizes = tuple(len(value[:, 0].round(decimals=2).unique()) for value in inside)
        if math.prod(sizes) != len(known) or not self._regular(node, [value.unflatten(0, sizes) for value in inside]):
            return None
        return Grid(first, sizes)

    def _regular(self, node: fx.Node, coordinates: list[Tensor]) -> bool:
        """Whether coordinates (*positions, channels) grow along their dimension alone, over most of what is seen."""
        rows = zip(coordinates, self.seen(node), strict=True)
        return all(_evenly(value.movedim(dim, 0).flatten(1), *seen) for dim, (value, seen) in enumerate(rows))


def _with_all_before(node: fx.Node) -> set[fx.Node]:
    found, pending = {node}, [node]
    while pending:
        fresh = [source for source in pending.pop().all_input_nodes if source not in found]
        found.update(fresh)
        pending.extend(fresh)
    return found


def _extent(read: list[Tensor], length: int) -> Extent:
    """From the first pixel that is read to the one behind the last; an end within a step is the image's."""
    known = [value[value.isfinite()] for value in read]
    if not known or not all(value.numel() for value in known):
        return Extent(0, length)
    places = torch.cat([value.unique() for value in known]).unique()
    step = float(places.diff().median()) if len(places) > 1 else 1.0
    start, stop = (round(float(places[end]) + side * step / 2 + 0.5) for end, side in ((0, -1), (-1, 1)))
    return Extent(start if start >= max(step, 1) else 0, stop if length - stop >= max(step, 1) else length)


def _evenly(lines: Tensor, start: int, stop: int) -> bool:
    """Whether coordinates (places, others) grow with the place, are the same for all others, and span what is seen."""
    length = stop - start
    middles = lines.mean(1)
    step = float(middles.diff().median()) if len(middles) > 1 else float(length)
    same = bool(((lines - middles[:, None]).abs() <= _APART * step + 1e-3).all())
    grows = bool((middles.diff() > 0).all())
    covered = _COVERED[0] <= step * len(middles) / length <= _COVERED[1]
    centred = abs(float(middles.mean()) - (start + stop - 1) / 2) <= _ASIDE * step
    return same and grows and covered and centred
