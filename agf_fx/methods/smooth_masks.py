"""Masks that are smooth by themselves: coarse ones, enlarged by a smooth maximum of what each cell shows around it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_TEMPERATURE = 1 / 20  # T
_LEAST = 0.02  # of the kernel: cells that show less of a pixel are left out


@dataclass(frozen=True)
class SmoothMaximum:
    """Masks (R, *cells) from 0 to 1, enlarged to (R, *spatial) by a max-convolution (Fong et al. 2019, sec. 3.3).

    M(u) = smax_v k(u - v) m(v), smax f = Σ f exp(f/T) / Σ exp(f/T), with the kernel k(u) = exp(-max(0, |u|/s - 1)²/4).
    v runs over the cells near that in which the pixel u lies; outside of the image they are 0.

    Attributes:
        sizes: of the image, (*spatial).
        cells: how many there are in each dimension.
        sides: of a cell, in pixels.
        reach: how many cells away one still shows something, in each dimension.
        kernel: k at every pixel of a cell for each cell near it, (1, 1, side, 1, side, ..., near).
    """

    sizes: tuple[int, ...]
    cells: tuple[int, ...]
    sides: tuple[int, ...]
    reach: tuple[int, ...]
    kernel: Tensor

    @staticmethod
    def of(sizes: Sequence[int], cells: Sequence[int], width: float, like: Tensor) -> SmoothMaximum:
        """For images of these sizes.

        Args:
            sizes: of the image, (*spatial).
            cells: the most in each dimension; cells have whole sides, so that there may be fewer.
            width: s, in pixels.
            like: has the dtype and the device of masks.
        """
        sides = tuple(math.ceil(size / most) for size, most in zip(sizes, cells, strict=True))
        cells = tuple(math.ceil(size / side) for size, side in zip(sizes, sides, strict=True))
        far = width * (1 + 2 * math.sqrt(-math.log(_LEAST)))
        reach = tuple(min(most - 1, math.ceil(far / side)) for most, side in zip(cells, sides, strict=True))
        kernel = torch.exp(-((_distances(sides, reach) / width - 1).clamp_min(0) ** 2) / 4)
        return SmoothMaximum(tuple(sizes), cells, sides, reach, kernel[None].to(like))

    def enlarged(self, mask: Tensor) -> Tensor:
        """M, (R, *spatial)."""
        above, below = self._sums(mask)
        whole = (above / below).reshape(-1, *(few * side for few, side in zip(self.cells, self.sides, strict=True)))
        return whole[(slice(None), *map(slice, self.sizes))]

    def adjoint(self, mask: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at masks, (R, *cells), from that at the enlarged ones, (R, *spatial).

        ∂M/∂f_v = exp(f_v/T) (1 + (f_v - M)/T) / Σ exp(f/T), with f_v = k(u - v) m(v).
        """
        above, below = self._sums(mask)
        maximum, down = above / below, self._by_cell(gradient) / below
        inside, found = [2 * (dim + 1) for dim in range(len(self.cells))], []
        for shown, kernel in self._near(mask):
            slope = torch.exp(shown / _TEMPERATURE) * (1 + (shown - maximum[..., None]) / _TEMPERATURE) * kernel
            found.append((slope * down[..., None]).sum(inside))
        return self._gathered(torch.cat(found, -1))

    def _sums(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Σ f exp(f/T) and Σ exp(f/T), (R, cells, side, cells, side, ...); exp(1/T) is 5e8, far from overflow."""
        above = below = mask.new_zeros(())
        for shown, _ in self._near(mask):
            weight = torch.exp(shown / _TEMPERATURE)
            above, below = above + (shown * weight).sum(-1), below + weight.sum(-1)
        return above, below

    def _near(self, mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What some of the cells near a pixel show of it, (R, cells, side, ..., some), and k, a few after the other."""
        windows = F.pad(mask, [most for most in reversed(self.reach) for _ in range(2)])
        for dim, most in enumerate(self.reach, 1):
            windows = windows.unfold(dim, 2 * most + 1, 1)
        windows = windows.flatten(1 + len(self.cells))
        for dim in range(len(self.cells)):
            windows = windows.unsqueeze(2 * dim + 2)
        few = 2 * self.reach[-1] + 1
        for cells, kernel in zip(windows.split(few, -1), self.kernel.split(few, -1), strict=True):
            yield cells * kernel, kernel

    def _by_cell(self, values: Tensor) -> Tensor:
        """Values at pixels, (R, *spatial), by cell: (R, cells, side, cells, side, ...); 0 beyond the image."""
        missing = [few * side - size for few, side, size in zip(self.cells, self.sides, self.sizes, strict=True)]
        whole = F.pad(values, [pad for more in reversed(missing) for pad in (0, more)])
        return whole.reshape(len(values), *itertools.chain(*zip(self.cells, self.sides, strict=True)))

    def _gathered(self, found: Tensor) -> Tensor:
        """What each cell got as one of those near another, (R, *cells, near), added up: (R, *cells)."""
        total = found.new_zeros(len(found), *(few + 2 * most for few, most in zip(self.cells, self.reach, strict=True)))
        places = itertools.product(*(range(2 * most + 1) for most in self.reach))
        for part, place in zip(found.unbind(-1), places, strict=True):
            total[(slice(None), *(slice(a, a + few) for a, few in zip(place, self.cells, strict=True)))] += part
        return total[
            (slice(None), *(slice(most, most + few) for most, few in zip(self.reach, self.cells, strict=True)))
        ]


def _distances(sides: Sequence[int], reach: Sequence[int]) -> Tensor:
    """From the pixels of a cell to the middles of cells near it: (1, side, 1, side, ..., near), float64, in pixels."""
    squares = torch.zeros((), dtype=torch.float64)
    for side, most in zip(sides, reach, strict=True):
        inside = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
        away = inside[:, None] - side * torch.arange(-most, most + 1, dtype=torch.float64)
        squares = squares[..., None, None] + away**2  # side, near, side, near, ...
    dims = range(0, 2 * len(sides), 2)
    squares = squares.permute(*dims, *(dim + 1 for dim in dims)).flatten(len(sides))
    for dim in dims:
        squares = squares.unsqueeze(dim)
    return squares.sqrt()
