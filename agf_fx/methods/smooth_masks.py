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
_LEAST = 0.05  # of the kernel: cells that show less of a pixel are left out
_CACHED = 1 << 18  # values at once on a CPU, a megabyte in single precision: a few turns over them stay in its cache


@dataclass(frozen=True)
class SmoothMaximum:
    """Masks (R, *cells) from 0 to 1, enlarged to pixels by a max-convolution (Fong et al. 2019, sec. 3.3).

    M(u) = smax_v k(u - v) m(v), smax f = Σ f exp(f/T) / Σ exp(f/T), with the kernel k(u) = exp(-max(0, |u|/s - 1)²/4).
    v runs over the cells that show 0.05 or more of some pixel of the cell in which u lies; outside of the image they
    are 0.

    M has all pixels that a cell shows something of, also beyond the edges of the image: (R, *wide). Counted in the
    image alone, cells at its edges would cost less area than others, and masks would lie there.

    Attributes:
        sizes: of the image, (*spatial).
        cells: how many there are in each dimension of the image.
        sides: of a cell, in pixels.
        reach: how many cells away one still shows something, in each dimension.
        near: how many cells away those are that show something, each from -reach to reach in each dimension.
        kernel: k of these at every pixel of a cell, (near, pixels of a cell).
    """

    sizes: tuple[int, ...]
    cells: tuple[int, ...]
    sides: tuple[int, ...]
    reach: tuple[int, ...]
    near: tuple[tuple[int, ...], ...]
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
        most = [math.floor((far + (side - 1) / 2) / side) for side in sides]
        offsets = list(itertools.product(*(range(-away, away + 1) for away in most)))
        pixels = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in sides))
        middles = torch.tensor(offsets, dtype=torch.float64) * torch.tensor(sides)
        away = (pixels.reshape(1, -1, len(sides)) - middles[:, None]).norm(dim=2)
        kernel = torch.exp(-((away / width - 1).clamp_min(0) ** 2) / 4)
        shown = kernel.amax(1) >= _LEAST
        near = tuple(offset for offset, kept in zip(offsets, shown.tolist(), strict=True) if kept)
        reach = tuple(max(abs(offset[dim]) for offset in near) for dim in range(len(sides)))
        return SmoothMaximum(tuple(sizes), cells, sides, reach, near, kernel[shown].to(like))

    @property
    def places(self) -> tuple[int, ...]:
        """How many places for cells M covers in each dimension: of the image and as far around it as one reaches."""
        return tuple(few + 2 * most for few, most in zip(self.cells, self.reach, strict=True))

    @property
    def wide(self) -> tuple[int, ...]:
        """How many pixels M has in each dimension."""
        return tuple(few * side for few, side in zip(self.places, self.sides, strict=True))

    def enlarged(self, mask: Tensor) -> Tensor:
        """M, (R, *wide)."""
        return torch.cat([self._as_pixels(above / below) for _, (above, below) in self._sums(mask)])

    def inside(self, wide: Tensor) -> Tensor:
        """The pixels (R, *spatial) of the image, a view of (R, *wide)."""
        for dim, (most, side, size) in enumerate(zip(self.reach, self.sides, self.sizes, strict=True), 1):
            wide = wide.narrow(dim, most * side, size)
        return wide

    def adjoint(self, mask: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at masks, (R, *cells), from that at the enlarged ones, (R, *wide).

        ∂M/∂f_v = exp(f_v/T) (1 + (f_v - M)/T) / Σ exp(f/T), with f_v = k(u - v) m(v).
        """
        found = []
        for rows, (above, below) in self._sums(mask):
            slope = self._by_place(gradient[rows]) / below
            constant = slope * (1 - above / below / _TEMPERATURE)
            slope = slope / _TEMPERATURE
            total = mask.new_zeros(len(slope), *self._padded)
            for where, kernel, shown, weight in self._shown(mask[rows]):
                down = torch.addcmul(constant, slope, shown).mul_(weight)
                total[where] += (kernel @ down).reshape(len(slope), *self.places)
            found.append(total)
        return self._own(torch.cat(found))

    def _sums(self, mask: Tensor) -> Iterator[tuple[slice, tuple[Tensor, Tensor]]]:
        """Σ f exp(f/T) and Σ exp(f/T), (rows, pixels of a cell, places), a few rows after the other.

        exp(1/T) is 5e8, far from overflow.
        """
        count = self.kernel.shape[1] * math.prod(self.places)
        few = max(1, _CACHED // count) if mask.device.type == "cpu" else len(mask)
        for start in range(0, len(mask), few):
            rows = slice(start, start + few)
            above, below = mask.new_zeros(2, len(mask[rows]), self.kernel.shape[1], math.prod(self.places))
            for _, _, shown, weight in self._shown(mask[rows]):
                above.addcmul_(shown, weight)
                below += weight
            yield rows, (above, below)

    def _shown(self, mask: Tensor) -> Iterator[tuple[tuple[slice, ...], Tensor, Tensor, Tensor]]:
        """One offset after the other: where these cells are among `_padded` ones, k, f and exp(f/T) of all places."""
        padded = F.pad(mask, [2 * most for most in reversed(self.reach) for _ in range(2)])
        for offset, kernel in zip(self.near, self.kernel, strict=True):
            starts = [most + away for most, away in zip(self.reach, offset, strict=True)]
            cells = (slice(start, start + few) for start, few in zip(starts, self.places, strict=True))
            where = (slice(None), *cells)
            shown = padded[where].reshape(len(mask), 1, -1) * kernel[:, None]
            yield where, kernel, shown, torch.exp(shown / _TEMPERATURE)

    @property
    def _padded(self) -> tuple[int, ...]:
        """How many cells the places see."""
        return tuple(few + 2 * most for few, most in zip(self.places, self.reach, strict=True))

    def _own(self, padded: Tensor) -> Tensor:
        """The cells (R, *cells) of the image, of (R, *_padded)."""
        for dim, (most, few) in enumerate(zip(self.reach, self.cells, strict=True), 1):
            padded = padded.narrow(dim, 2 * most, few)
        return padded

    def _as_pixels(self, values: Tensor) -> Tensor:
        """(R, pixels of a cell, places) as (R, *wide)."""
        count = len(self.sides)
        apart = values.reshape(-1, *self.sides, *self.places)
        order = itertools.chain.from_iterable((1 + count + dim, 1 + dim) for dim in range(count))
        return apart.permute(0, *order).reshape(-1, *self.wide)

    def _by_place(self, pixels: Tensor) -> Tensor:
        """(R, *wide) as (R, pixels of a cell, places)."""
        count = len(self.sides)
        apart = pixels.reshape(-1, *itertools.chain(*zip(self.places, self.sides, strict=True)))
        order = (*range(2, 2 * count + 1, 2), *range(1, 2 * count, 2))
        return apart.permute(0, *order).reshape(len(pixels), self.kernel.shape[1], -1)
