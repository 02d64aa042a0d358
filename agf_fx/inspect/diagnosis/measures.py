"""What is measured of a map, as numbers that do not depend on its scale."""

from __future__ import annotations

import torch
from torch import Tensor

FEWEST_CELLS = 16
"""Cells of a grid below which an accident looks like one."""


def grid(drawn: Tensor, period: int) -> float | None:
    """How strongly a map repeats with a period: 1 where all lies on one position of every cell, 0 where none matters.

    Of every cell of ``period`` x ``period`` pixels, the shares of |map| at its positions; their mean over the cells of
    either colour of a chessboard; the covariance of both over that of a grid of single pixels, and its root. What is
    no grid is different in both halves and comes out at about 0 (0 where the covariance is negative). A uniform kernel
    of 3 x 3 with stride 2 has 0.28.

    Args:
        drawn: (H, W).
        period: in pixels, 2 or more.

    Returns:
        None where there are fewer than `FEWEST_CELLS` cells that are not blank.
    """
    rows, columns = drawn.shape[0] // period, drawn.shape[1] // period
    if rows * columns < FEWEST_CELLS:
        return None
    size = drawn.abs()[: rows * period, : columns * period]
    cells = size.reshape(rows, period, columns, period).transpose(1, 2).reshape(rows, columns, period * period)
    totals = cells.sum(2)
    seen = totals > 1e-6 * totals.max()
    if int(seen.sum()) < FEWEST_CELLS:
        return None
    shares = cells / totals.clamp_min(torch.finfo(cells.dtype).tiny).unsqueeze(2)
    white = (torch.arange(rows)[:, None] + torch.arange(columns)).to(drawn.device) % 2 == 0
    halves = [shares[seen & colour] for colour in (white, ~white)]
    if min(map(len, halves)) == 0:
        return None
    even = 1 / period**2
    first, second = (half.mean(0) - even for half in halves)
    return max(0.0, float((first * second).sum()) / (1 - even)) ** 0.5


def roughness(drawn: Tensor) -> float:
    """How little a pixel says of its neighbours: 1 - their correlation; 0 where a map is smooth, 1 where it is noise.

    Of the signed root of the map, so that a few large values do not decide alone. Above 1 where neighbours differ in
    sign.

    Args:
        drawn: (H, W), not constant.
    """
    values = drawn.sign() * drawn.abs().sqrt()
    pairs = [(values[1:], values[:-1]), (values[:, 1:], values[:, :-1])]
    first, second = (torch.cat([pair[side].flatten() for pair in pairs]) for side in (0, 1))
    return 1 - similarity(first, second)


def similarity(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two tensors of one shape; NaN where one is constant."""
    first, second = (values.flatten().double() - values.double().mean() for values in (a, b))
    first, second = (values / values.norm() for values in (first, second))
    return float(first @ second)


def peak_share(drawn: Tensor) -> float:
    """The share of the sum of |map| at its largest pixel."""
    return float(drawn.abs().max() / drawn.abs().sum())


def border_share(drawn: Tensor) -> tuple[float, float]:
    """The share of the sum of |map| within the outermost 1/16 of height and width, and the share of the area there."""
    inside = torch.zeros_like(drawn, dtype=torch.bool)
    high, wide = (max(1, size // 16) for size in drawn.shape)
    inside[high:-high, wide:-wide] = True
    total = drawn.abs().sum()
    return float((drawn.abs() * ~inside).sum() / total), float((~inside).double().mean())


def negative_share(drawn: Tensor) -> float:
    """The share of the sum of |map| that is negative."""
    return float((-drawn).clamp_min(0).sum() / drawn.abs().sum())
