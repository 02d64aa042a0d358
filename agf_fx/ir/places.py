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

_APART = 0.6  # of the distance of neighbours: so far may windows at an edge be from where they would be elsewhere
_ASIDE = 0.75  # of that distance: so far may their middle be from that of the image, as strides shift it
_COVERED = 0.5, 2.0  # of the image, by positions and their distance


class Grid(NamedTuple):
    """Where the positions are among tokens: how many come before, and how many there are along each dimension."""

    first: int
    sizes: tuple[int, ...]


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
        self.dims = tuple(dim for dim in range(1, len(shape)) if dim != channel)
        self._lengths = tuple(shape[dim] for dim in self.dims)
        self._coordinates = [positions(canonical, dim) for dim in self.dims]
        self._grids: dict[fx.Node, Grid | None] = {}

    def lie_as_in_images(self, node: fx.Node, channel: int) -> bool:
        """Whether the dimensions of a value but the batch and ``channel`` are those of the images, in their order."""
        return self._regular([of[node][0].movedim(channel - 1, -1) for of in self._coordinates])

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
        if math.prod(sizes) != len(known) or not self._regular([value.unflatten(0, sizes) for value in inside]):
            return None
        return Grid(first, sizes)

    def _regular(self, coordinates: list[Tensor]) -> bool:
        """Whether coordinates (*positions, channels) grow along their own dimension alone, over most of the images."""
        rows = zip(coordinates, self._lengths, strict=True)
        return all(_evenly(value.movedim(dim, 0).flatten(1), length) for dim, (value, length) in enumerate(rows))


def _evenly(lines: Tensor, length: int) -> bool:
    """Whether coordinates (places, others) grow with the place, are the same for all others, and span an image."""
    middles = lines.mean(1)
    step = float(middles.diff().median()) if len(middles) > 1 else float(length)
    same = bool(((lines - middles[:, None]).abs() <= _APART * step + 1e-3).all())
    grows = bool((middles.diff() > 0).all())
    covered = _COVERED[0] <= step * len(middles) / length <= _COVERED[1]
    centred = abs(float(middles.mean()) - (length - 1) / 2) <= _ASIDE * step
    return same and grows and covered and centred
