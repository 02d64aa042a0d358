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
_COVERED = 0.5, 2.0  # of what is seen of the image, by positions and their distance
_OF_A_CROP = 1.25  # of a crop, at most: more, and zeros have been put around it
_BACK = 0.2  # of the image's length: so far may places go back, or differ between others, and still be in order
_NEARLY = 0.05  # of a pixel

aten = torch.ops.aten


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
        self.dims = tuple(dim for dim in range(1, len(shape)) if dim != channel)
        self._lengths = tuple(shape[dim] for dim in self.dims)
        self._coordinates = [positions(canonical, dim) for dim in self.dims]
        self._grids: dict[fx.Node, Grid | None] = {}
        self._seen = self._all_seen(canonical)

    def lie_as_in_images(self, node: fx.Node, channel: int) -> bool:
        """Whether the dimensions of a value but the batch and ``channel`` are those of the images, in their order."""
        return self._regular(node, [of[node][0].movedim(channel - 1, -1) for of in self._coordinates])

    def seen(self, node: fx.Node) -> tuple[Extent, ...]:
        """The part of the images that a value is computed from, along each of `dims`: all but where a model crops.

        Slices, `index_select` and padding below 0 crop, of the images or of a feature map, where they leave out a place
        or more at an end. What strides, windows and kernels do at the borders is no crop.
        """
        found = self._seen.get(node, tuple((0.0, float(length)) for length in self._lengths))
        rows = zip(found, self._lengths, strict=True)
        return tuple(Extent(max(0, round(start)), min(length, round(stop))) for (start, stop), length in rows)

    def _all_seen(self, canonical: CanonicalGraph) -> dict[fx.Node, tuple[tuple[float, float], ...]]:
        known = {canonical.images: tuple((0.0, float(length)) for length in self._lengths)}
        for node in canonical.calls:
            read = [known[source] for source in node.all_input_nodes if source in known]
            if not read:
                continue
            seen = tuple((min(a for a, _ in ends), max(b for _, b in ends)) for ends in zip(*read, strict=True))
            source = node.args[0]
            if _crops(node) and source in known:
                pairs = zip(self._coordinates, seen, strict=True)
                seen = tuple(_cut(of[source], of[node], ends) if node in of else ends for of, ends in pairs)
            known[node] = seen
        return known

    def in_order(self, node: fx.Node) -> bool:
        """Whether a value (N, C, *places) has places that lie as in the images, as far as they are known: not flipped,
        turned or moved around. Less than `lie_as_in_images`: places may repeat, and leave out what they like. Of
        several places some are to be known."""
        if node not in self._coordinates[0]:
            return True
        for dim, (of, length) in enumerate(zip(self._coordinates, self._lengths, strict=True)):
            lines = of[node][0].movedim(dim + 1, 0).flatten(1)
            known = lines.isfinite()
            if len(lines) > 1 and not bool(known.any()):
                return False
            middles = lines.nan_to_num(0).sum(1) / known.sum(1)
            apart = (lines - middles[:, None]).abs()[known]
            middles = middles[middles.isfinite()]
            back = middles.cummax(0)[0] - middles
            if bool((back > _BACK * length).any()) or bool((apart > _BACK * length + 1).any()):
                return False
        return True

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
        rows = enumerate(zip(coordinates, self.seen(node), self._lengths, strict=True))
        return all(
            _evenly(value.movedim(dim, 0).flatten(1), *seen, whole=seen == (0, length))
            for dim, (value, seen, length) in rows
        )


def _crops(node: fx.Node) -> bool:
    if node.target is aten.constant_pad_nd.default:
        return min(node.args[1]) < 0
    return node.target in (aten.slice.Tensor, aten.index_select.default)


def _cut(x: Tensor, y: Tensor, seen: tuple[float, float]) -> tuple[float, float]:
    """What is seen of ``seen``, in pixels, where of places with coordinates ``x`` those with ``y`` are left."""
    before, after = (value[value.isfinite()].round(decimals=2).unique() for value in (x, y))
    if not len(before) or not len(after):
        return seen
    own = float(before.diff().median()) if len(before) > 1 else 1.0
    step = float(after.diff().median()) if len(after) > 1 else own
    start, stop = seen
    if float(after[0] - before[0]) > step - _NEARLY:
        start = float(after[0]) - own / 2 + 0.5
    if float(before[-1] - after[-1]) > step - _NEARLY:
        stop = float(after[-1]) - own / 2 + 0.5 + step
    return start, stop


def _evenly(lines: Tensor, start: int, stop: int, whole: bool) -> bool:
    """Whether coordinates (places, others) grow with the place, are the same for all others, and span what is seen."""
    length = stop - start
    middles = lines.mean(1)
    step = float(middles.diff().median()) if len(middles) > 1 else float(length)
    same = bool(((lines - middles[:, None]).abs() <= _APART * step + 1e-3).all())
    grows = bool((middles.diff() > 0).all())
    covered = _COVERED[0] <= step * len(middles) / length <= (_COVERED[1] if whole else _OF_A_CROP)
    centred = abs(float(middles.mean()) - (start + stop - 1) / 2) <= _ASIDE * step
    return same and grows and covered and centred
