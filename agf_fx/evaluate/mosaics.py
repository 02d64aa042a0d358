"""Mosaics of pictures whose classes a network knows: what the grid pointing game is played on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agf_fx.errors import InputError, OptionsError
from agf_fx.evaluate.experiments import BatchLike
from agf_fx.evaluate.perturbation import Predict

_MANY = 100_000  # mosaics that are not all looked at
_TRIES = 100  # draws for each mosaic


@dataclass(frozen=True)
class Tiles:
    """Pictures with a class each, which the network finds with confidence.

    Attributes:
        names: of the M pictures.
        images: (M, C, H, W); or numbers of some of them, n -> (n, C, H, W), where they are read again when they are
            needed, so that any number of pictures fits the memory.
        classes: (M,) int64.
        failures: pictures that could not be read, with the reason.
        shown: all classes of each picture that are known, among them its own; by default that alone.
    """

    names: tuple[str, ...]
    images: Tensor | Callable[[Sequence[int]], Tensor]
    classes: Tensor
    failures: tuple[tuple[str, Exception], ...] = ()
    shown: tuple[frozenset[int], ...] = ()


@torch.no_grad()
def confident_tiles(
    predict: Predict,
    batches: Iterable[BatchLike],
    *,
    confidence: float = 0.25,
    multi_label: bool = False,
    read: Callable[[str], Tensor] | None = None,
) -> Tiles:
    """Of pictures those whose first class is the likeliest, with a probability of at least ``confidence``.

    Of pictures without a class, the likeliest one is taken.

    Args:
        predict: images (M, C, H, W) -> logits.
        batches: of pictures.
        confidence: the least probability.
        multi_label: whether probabilities are sigmoids.
        read: the name of a picture -> it, (C, H, W), when it is needed; None: all are kept.

    Raises:
        InputError: there are none.
    """
    names: list[str] = []
    shown: list[frozenset[int]] = []
    images, classes, failures = [], [], []
    for batch in batches:
        failures += getattr(batch, "failures", ())
        if not len(batch.images):
            continue
        logits = predict(batch.images)
        logits = logits.flatten(2).mean(2) if logits.dim() > 2 else logits
        likeliest = logits.argmax(1)
        probability = logits.sigmoid() if multi_label else logits.softmax(1)
        said = batch.targets[:, 0].to(likeliest) if batch.targets.shape[1] else torch.full_like(likeliest, -1)
        known = (likeliest == said) | (said < 0)
        chosen = (known & (probability.amax(1) >= confidence)).nonzero()[:, 0].tolist()
        names += [list(batch.names)[index] for index in chosen]
        known_of = batch.targets[chosen].tolist()
        shown += [
            frozenset({own, *others} - {-1}) for own, others in zip(likeliest[chosen].tolist(), known_of, strict=True)
        ]
        if read is None:
            images.append(batch.images[chosen].cpu())
        classes.append(likeliest[chosen].cpu())
    if not names:
        raise InputError(f"the network finds the class of no picture with a probability of {confidence} or more.")

    def again(places: Sequence[int]) -> Tensor:
        return torch.stack([read(names[place]) for place in places])

    pictures = torch.cat(images) if read is None else again
    return Tiles(tuple(names), pictures, torch.cat(classes), tuple(failures), tuple(shown))


@dataclass(frozen=True)
class MosaicBatch:
    """Mosaics (N, C, n H, n W) of n² pictures each; the class of each picture, row by row, and the mask of its cell."""

    names: tuple[str, ...]
    images: Tensor
    targets: Tensor
    masks: Tensor
    ignored: None = None


def mosaic_batches(
    tiles: Tiles, *, cells: int = 2, limit: int = 500, size: int = 8, seed: int = 0, device: torch.device | None = None
) -> Iterator[MosaicBatch]:
    """Mosaics of pictures of different classes: all of them if there are at most ``limit``, else so many at random.

    With a smaller ``limit`` they are the first of those with a larger one.

    Args:
        tiles: the pictures.
        cells: n, in each direction.
        limit: the most mosaics.
        size: mosaics in a batch.
        seed: of the choice.
        device: of the batches; None for that of the tiles.

    Raises:
        OptionsError: a number is too small.
        InputError: there are not enough classes.
    """
    if min(cells, limit, size) < 1:
        raise OptionsError(f"cells={cells}, limit={limit} and size={size} must be 1 or more.")
    chosen = chosen_mosaics(tiles, cells, limit, seed)
    for start in range(0, len(chosen), size):
        rows = chosen[start : start + size]
        flat = [index for row in rows for index in row]
        parts = tiles.images[flat] if isinstance(tiles.images, Tensor) else tiles.images(flat)
        parts = parts.unflatten(0, (len(rows), cells**2))  # (N, n², C, H, W)
        grid = parts.unflatten(1, (cells, cells)).permute(0, 3, 1, 4, 2, 5)
        whole = grid.flatten(4).flatten(2, 3)
        names = tuple("+".join(tiles.names[index] for index in row) for row in rows)
        place = whole.device if device is None else device
        masks = _cell_masks(cells, *parts.shape[3:]).expand(len(rows), -1, -1, -1)
        yield MosaicBatch(names, whole.to(place), tiles.classes[torch.tensor(rows)].to(place), masks.to(place))


def chosen_mosaics(tiles: Tiles, cells: int = 2, limit: int = 500, seed: int = 0) -> list[tuple[int, ...]]:
    """Which pictures, by their numbers, each mosaic of `mosaic_batches` has, row by row; errors as there."""
    classes = tiles.classes.tolist()
    return _chosen(classes, tiles.shown or [frozenset({one}) for one in classes], cells**2, limit, seed)


def _cell_masks(cells: int, height: int, width: int) -> Tensor:
    """(n², n H, n W) bool."""
    which = torch.arange(cells**2).reshape(cells, cells)
    places = which.repeat_interleave(height, 0).repeat_interleave(width, 1)
    return places == torch.arange(cells**2)[:, None, None]


def _chosen(
    classes: list[int], shown: Sequence[frozenset[int]], count: int, limit: int, seed: int
) -> list[tuple[int, ...]]:
    """Which pictures make a mosaic, none of which shows the class of another, in random places."""
    if len({*classes}) < count:
        raise InputError(f"mosaics of {count} pictures need as many classes, and there are {len({*classes})}.")
    generator = np.random.default_rng(seed)
    rows = itertools.combinations(range(len(classes)), count)
    if math.comb(len(classes), count) > _MANY:
        draws = (generator.choice(len(classes), count, replace=False) for _ in range(_TRIES * limit))
        rows = (tuple(sorted(row.tolist())) for row in draws)
    found: dict[tuple[int, ...], None] = {}
    for row in rows:
        if len({classes[index] for index in row}) == count and _apart(row, classes, shown):
            found[row] = None
        if len(found) == limit and math.comb(len(classes), count) > _MANY:
            break
    chosen = [*found]
    if not chosen:
        raise InputError(f"of {len(classes)} pictures no {count} show none of the classes of each other.")
    if len(chosen) > limit:
        chosen = [chosen[index] for index in generator.permutation(len(chosen))[:limit].tolist()]
    return [tuple(np.random.default_rng([seed, *row]).permutation(row).tolist()) for row in chosen]


def _apart(row: Sequence[int], classes: Sequence[int], shown: Sequence[frozenset[int]]) -> bool:
    """Whether no picture of a mosaic shows the class of another one."""
    return all(classes[one] not in shown[other] for one in row for other in row if one != other)
