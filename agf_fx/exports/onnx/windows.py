"""Poolings and resamplings as constant matrices and tables of positions, for sizes that are known.

Average pooling and linear resampling are separable linear maps, one matrix for each spatial dimension, which the
operation itself gives when it is applied to the unit vectors; the adjoint is the transposed matrices. Maximum pooling
reads a table of positions. Sizes are those of the spatial dimensions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

aten = torch.ops.aten

Sizes = Sequence[int]


def average_matrices(
    sizes: Sizes,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> list[Tensor]:
    """Of ``avg_pool2d`` or ``avg_pool3d``, (outputs, inputs) in float64 for each dimension."""
    rows = zip(sizes, *(per_dim(option, len(sizes)) for option in (kernel, stride or kernel, padding)), strict=True)
    divisor = None if divisor_override is None else 1
    matrices = []
    for size, k, s, p in rows:
        units = torch.eye(size, dtype=torch.float64)[:, None, None]
        pooled = aten.avg_pool2d.default(units, [1, k], [1, s], [0, p], ceil_mode, count_include_pad, divisor)
        matrices.append(pooled[:, 0, 0].T)
    return matrices if divisor is None else [matrices[0] / divisor_override, *matrices[1:]]


def adaptive_matrices(sizes: Sizes, outputs: Sizes) -> list[Tensor]:
    """Of ``adaptive_avg_pool2d`` or ``adaptive_avg_pool3d``, (outputs, inputs) in float64 for each dimension."""
    return [
        aten.adaptive_avg_pool1d.default(torch.eye(size, dtype=torch.float64)[None], [output])[0].T
        for size, output in zip(sizes, outputs, strict=True)
    ]


def linear_matrices(sizes: Sizes, outputs: Sizes, align_corners: bool, *scales: float | None) -> list[Tensor]:
    """Of linear, bilinear or trilinear resampling, (outputs, inputs) in float64 for each dimension."""
    scales = scales or (None,) * len(sizes)
    return [
        aten.upsample_linear1d.default(torch.eye(size, dtype=torch.float64)[None], [output], align_corners, scale)[0].T
        for size, output, scale in zip(sizes, outputs, scales, strict=True)
    ]


def windows(sizes: Sizes, outputs: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> Tensor:
    """The positions that each window of a pooling reads, (windows, longest), counted row by row.

    Windows cut off at the border repeat their last position.
    """
    geometry = zip(sizes, outputs, kernel, stride, padding, dilation, strict=True)
    return _table(
        sizes,
        [
            [[at for at in range(o * s - p, o * s - p + k * d, d) if 0 <= at < size] for o in range(output)]
            for size, output, k, s, p, d in geometry
        ],
    )


def adaptive_windows(sizes: Sizes, outputs: Sizes) -> Tensor:
    """The same for adaptive pooling."""
    return _table(
        sizes,
        [
            [range(o * size // output, -(-(o + 1) * size // output)) for o in range(output)]
            for size, output in zip(sizes, outputs, strict=True)
        ],
    )


def _table(sizes: Sizes, reads: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """``reads``: for each dimension and output, the positions."""
    places = [math.prod(sizes[dim + 1 :]) for dim in range(len(sizes))]
    rows = [
        [sum(map(int.__mul__, position, places)) for position in itertools.product(*window)]
        for window in itertools.product(*reads)
    ]
    longest = max(map(len, rows))
    return torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])


def per_dim(sizes: Sizes, count: int) -> list[int]:
    """One number for each of ``count`` dimensions, where one may stand for all."""
    return list(sizes) if len(sizes) == count else list(sizes) * count
