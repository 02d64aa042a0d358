"""Images of which a mask hides parts: what stands in their place, how a coarse mask is enlarged, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from agf_fx.errors import OptionsError
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.methods.baseline import Baseline, checked_baseline, images_of, one_baseline
from agf_fx.methods.method import Trace
from agf_fx.options import require_number, require_whole

USUAL = 224  # the side of an image, in pixels, for which lengths are published
WIDEST = 1 << 16  # pixels: as far as a blur may reach


@dataclass(frozen=True)
class HidingOptions:
    """What all searches for masks can be told.

    Attributes:
        steps: how many, at most.
        learning_rate: how far they go.
        cells: how many cells the mask has in each dimension.
        sigma: standard deviation in pixels of the Gaussian that blurs what is hidden.
        baseline: what stands in the place of what is hidden; None for that blur.
        start: the mask at the start, from 0 for everything hidden to 1 for nothing.
        tolerance: by which share of its size a loss has to fall within ``patience`` steps; None: it need not.
        patience: see there.

    Raises:
        OptionsError: a value has no meaning.
    """

    steps: int = 300
    learning_rate: float = 0.1
    cells: int | None = None
    sigma: float | None = None
    baseline: float | Baseline | None = None
    start: float = 1.0
    tolerance: float | None = None
    patience: int = 20

    def __post_init__(self) -> None:
        require_whole("steps", self.steps, 1)
        require_number("learning_rate", self.learning_rate, above=0)
        if self.cells is not None:
            require_whole("cells", self.cells, 1)
        if self.sigma is not None:
            require_number("sigma", self.sigma, above=0, most=WIDEST)
        if self.baseline is not None:
            if self.sigma is not None:
                raise OptionsError("sigma is of the blur that a baseline stands in the place of; give one of them.")
            object.__setattr__(self, "baseline", checked_baseline(self.baseline))
        require_number("start", self.start, least=0, most=1)
        if self.tolerance is not None:
            require_number("tolerance", self.tolerance, least=0)
        require_whole("patience", self.patience, 1)

    def needs(self) -> tuple[Callable[[CanonicalGraph], None], ...]:
        """What these ask of a network."""
        return (one_baseline(self.baseline),) if self.baseline_images() else ()

    def baseline_images(self) -> Baseline | None:
        """The baseline, where it is an image."""
        return images_of(self.baseline)


def seen_and_hidden(trace: Trace, options: HidingOptions, sigma: float, levels: int) -> Tensor:
    """Images (R, *image) as they are, and ever more hidden: (R, 1 + levels, *image), or with a baseline (R, 2, *image).

    Args:
        trace: of the images and the baseline.
        options: what hides.
        sigma: of the blur of the last level if options say nothing, in pixels of 224; it grows evenly from 0.
        levels: how many.
    """
    images, baseline = trace.images, options.baseline
    if baseline is not None:
        hidden = trace.baseline.expand_as(images) if isinstance(baseline, Baseline) else images * 0 + float(baseline)
        return torch.stack([images, hidden], 1)
    most = scaled_length(sigma, mask_sizes(trace)) if options.sigma is None else options.sigma
    return torch.stack([blurred(images, most * level / levels, trace.channel_dim) for level in range(levels + 1)], 1)


def mask_sizes(trace: Trace) -> tuple[int, ...]:
    """The sizes of the images' dimensions that a map has."""
    return spatial_sizes(trace.canonical, trace.channel_dim)


def spatial_sizes(canonical: CanonicalGraph, channel_dim: int | None) -> tuple[int, ...]:
    """The sizes of the images' dimensions that a map has."""
    return tuple(size for dim, size in enumerate(canonical.image_type.shape) if dim not in (0, channel_dim))


def scaled_length(pixels: float, sizes: Sequence[int]) -> float:
    """A length published for images of 224 pixels, for images of other sizes: as large a part of the longest side."""
    return pixels * max(sizes) / USUAL


def gaussian(size: int, sigma: float) -> Tensor:
    """The blur of a line by a Gaussian, as a matrix (size, size), float64; rows sum to 1, at the ends as well.

    Args:
        size: pixels of the line.
        sigma: standard deviation in pixels; 0 changes nothing.
    """
    if sigma == 0:
        return torch.eye(size, dtype=torch.float64)
    places = torch.arange(size, dtype=torch.float64)
    weights = torch.exp(-((places[:, None] - places) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)


def linear(size: int, cells: int) -> Tensor:
    """The linear interpolation of a line of cells at ``size`` pixels, as a matrix (size, cells), float64."""
    each = torch.eye(cells, dtype=torch.float64)
    return F.interpolate(each[None], size, mode="linear", align_corners=False)[0].T.contiguous()


def along(values: Tensor, matrices: Sequence[Tensor], dims: Sequence[int]) -> Tensor:
    """Values with one matrix (out, in) applied along each of some dimensions.

    Matrices are cast to the dtype of the values, on their device. The transposed matrices are the adjoint.
    """
    for matrix, dim in zip(matrices, dims, strict=True):
        values = torch.movedim(torch.movedim(values, dim, -1) @ matrix.to(values).T, -1, dim)
    return values


def blurred(images: Tensor, sigma: float, channel_dim: int | None) -> Tensor:
    """Images (R, *image) blurred by a Gaussian of ``sigma`` pixels in all dimensions of a map."""
    dims = [dim for dim in range(1, images.dim()) if dim != channel_dim]
    return along(images, [gaussian(images.shape[dim], sigma) for dim in dims], dims)


def blended(levels: Tensor, hidden: Tensor, channel_dim: int | None) -> tuple[Tensor, Tensor]:
    """Images between levels: the first where nothing is hidden, the last where all is, and linear in between.

    Args:
        levels: (R, L, *image), two or more.
        hidden: how much of each pixel is, (R, *spatial), from 0 to 1.
        channel_dim: the images' dimension that ``hidden`` lacks; None: none.

    Returns:
        The images, and their derivative by ``hidden``, (R, *image) each.
    """
    steps = levels.shape[1] - 1
    depth = hidden * steps if channel_dim is None else hidden.unsqueeze(channel_dim) * steps
    upper = depth.floor().clamp(0, steps - 1)
    index = upper.long().expand(levels[:, 0].shape).unsqueeze(1)
    near, far = levels.gather(1, index)[:, 0], levels.gather(1, index + 1)[:, 0]
    return near + (depth - upper) * (far - near), (far - near) * steps


def shifted(levels: Tensor, shifts: Sequence[int], channel_dim: int | None) -> Tensor:
    """Levels (R, L, *image) moved by so many pixels in each dimension of a map, their edges repeated."""
    dims = [dim for dim in range(1, levels.dim() - 1) if dim != channel_dim]
    for dim, shift in zip(dims, shifts, strict=True):
        if shift:
            size = levels.shape[dim + 1]
            source = (torch.arange(size, device=levels.device) - shift).clamp(0, size - 1)
            levels = levels.index_select(dim + 1, source)
    return levels


def cells_of(cells: int | None, published: float, sizes: Sequence[int]) -> tuple[int, ...]:
    """How many cells a mask has in each dimension: as asked, or squares of the ``published`` pixels of 224."""
    side = scaled_length(published, sizes)
    return tuple(max(1, min(size, math.ceil(size / side) if cells is None else cells)) for size in sizes)
