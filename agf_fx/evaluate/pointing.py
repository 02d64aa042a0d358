"""Do maps point at what they explain? Shares of relevance in masks and in the cells of a mosaic, and peaks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from agf_fx.errors import InputError, OptionsError


def cell_shares(maps: Tensor, rows: int, columns: int | None = None) -> Tensor:
    """The share of the positive relevance that lies in each cell of a grid.

    The grid pointing game (Böhle et al., CVPR 2021; Rao et al., CVPR 2022) explains a mosaic for the class of each of
    its pictures, and takes the share in the cell of that picture.

    Args:
        maps: (..., H, W) floating; H and W are multiples of the numbers of cells.
        rows: of cells.
        columns: of cells; None for as many.

    Returns:
        (..., rows, columns) from 0 to 1, of sum 1; the same for all cells of a map without positive relevance, which
        prefers none.

    Raises:
        InputError: the cells would not be whole pixels, or maps are not finite.
    """
    _finite(maps)
    columns = rows if columns is None else columns
    height, width = maps.shape[-2:]
    if min(rows, columns) < 1 or height % rows or width % columns:
        raise InputError(f"maps of {height}x{width} pixels have no {rows}x{columns} cells of the same size.")
    cells = maps.clamp_min(0).unflatten(-2, (rows, -1)).unflatten(-1, (columns, -1)).sum((-3, -1))
    return _shares(cells, cells.sum((-2, -1), keepdim=True), 1 / (rows * columns))


def mask_shares(maps: Tensor, masks: Tensor, ignored: Tensor | None = None) -> Tensor:
    """The share of the positive relevance that lies in a mask: "relevance mass accuracy" (Arras et al. 2022).

    Args:
        maps: (..., H, W) floating.
        masks: bool, of the same shape.
        ignored: bool, of the same shape: pixels that count for nothing, such as those of which nobody knows what they
            show; None for none.

    Returns:
        (...,) from 0 to 1; of a map without positive relevance, the share of the pixels in the mask.

    Raises:
        InputError: shapes differ, or maps are not finite.
    """
    _same(maps, masks, ignored)
    counted = torch.ones_like(masks) if ignored is None else ~ignored
    positive, masks = maps.clamp_min(0) * counted, masks & counted
    inside = (positive * masks).sum((-2, -1))
    area = masks.to(maps).sum((-2, -1)) / counted.to(maps).sum((-2, -1)).clamp_min(1)
    return _shares(inside, positive.sum((-2, -1)), area)


def rank_accuracy(maps: Tensor, masks: Tensor, ignored: Tensor | None = None) -> Tensor:
    """The share of a mask's pixels among as many most relevant ones (Arras et al. 2022).

    Args:
        maps: (..., H, W) floating.
        masks: bool, of the same shape.
        ignored: as in `mask_shares`.

    Returns:
        (...,) from 0 to 1; NaN for an empty mask. Pixels on the edge of the choice that have the same value count in
        part.

    Raises:
        InputError: shapes differ, or maps are not finite.
    """
    _same(maps, masks, ignored)
    maps, masks = _last(maps, masks, ignored)
    values, inside = maps.flatten(-2), masks.flatten(-2)
    count = inside.sum(-1, keepdim=True)
    edge = values.sort(-1, descending=True).values.gather(-1, (count - 1).clamp_min(0))
    above, level = values > edge, values == edge
    room = (count - above.sum(-1, keepdim=True)).to(values)
    part = room / level.sum(-1, keepdim=True).clamp_min(1)
    chosen = above.to(values) + level * part
    return ((chosen * inside).sum(-1) / count[..., 0]).masked_fill(count[..., 0] == 0, torch.nan)


def peaks_inside(maps: Tensor, masks: Tensor, tolerance: int = 0, ignored: Tensor | None = None) -> Tensor:
    """The pointing game (Zhang et al., ECCV 2016): whether the largest value lies on the object.

    Args:
        maps: (..., H, W) floating.
        masks: bool, of the same shape.
        tolerance: how many pixels beside the mask still count; published is 15 for photographs.
        ignored: as in `mask_shares`; nothing else of the map is looked at where it is ignored.

    Returns:
        (...,) from 0 to 1: the share of the largest values that does, as there may be several.

    Raises:
        InputError: shapes differ, or maps are not finite.
        OptionsError: the tolerance is negative.
    """
    _same(maps, masks, ignored)
    if tolerance < 0:
        raise OptionsError(f"tolerance must be 0 or more, not {tolerance}.")
    if tolerance:
        near = _disc(tolerance).to(maps)[None, None]
        wide = F.conv2d(masks.to(maps).reshape(-1, 1, *masks.shape[-2:]), near, padding=tolerance)
        masks = (wide > 0.5).reshape(masks.shape)
    maps, masks = _last(maps, masks, ignored)
    largest = maps == maps.amax((-2, -1), keepdim=True)
    return (largest & masks).sum((-2, -1)) / largest.sum((-2, -1)).clamp_min(1)


def _last(maps: Tensor, masks: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    """Maps in which ignored pixels come after all others, and masks without them."""
    if ignored is None:
        return maps, masks
    size = maps.abs().amax((-2, -1), keepdim=True)
    return torch.where(ignored, -2 * size - 1, maps), masks & ~ignored


def _disc(radius: int) -> Tensor:
    places = torch.arange(-radius, radius + 1)
    return places[:, None] ** 2 + places**2 <= radius**2


def _shares(part: Tensor, whole: Tensor, otherwise: float | Tensor) -> Tensor:
    tiny = torch.finfo(part.dtype).tiny
    return torch.where(whole > 0, part / whole.clamp_min(tiny), torch.as_tensor(otherwise).to(part))


def _finite(maps: Tensor) -> None:
    if not bool(maps.isfinite().all()):
        raise InputError("maps hold NaN or infinity; leave these images out.")


def _same(maps: Tensor, masks: Tensor, ignored: Tensor | None = None) -> None:
    _finite(maps)
    if ignored is not None and (ignored.shape != maps.shape or ignored.dtype != torch.bool):
        raise InputError(f"ignored is {tuple(ignored.shape)} ({ignored.dtype}); give bool of the shape of the maps.")
    if maps.shape != masks.shape or maps.dim() < 2 or masks.dtype != torch.bool:
        raise InputError(
            f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} ({masks.dtype}) must be (..., H, W) and bool of "
            "the same shape."
        )
