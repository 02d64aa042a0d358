"""Extremal perturbations: the part of an image of a given area that is best for the class when it alone is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from agf_fx.errors import OptionsError
from agf_fx.methods.descent import heavy_ball
from agf_fx.methods.gradient import target_indicator
from agf_fx.methods.hiding import WIDEST, HidingOptions, blended, cells_of, mask_sizes, scaled_length, seen_and_hidden
from agf_fx.methods.method import Method, Search, Seeker, Trace
from agf_fx.methods.path import gradient_at_point
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.smooth_masks import SmoothMaximum
from agf_fx.methods.streams import gradient_stream
from agf_fx.options import require_number, require_whole

_CELL, _WIDTH, _SIGMA = 7, 9, 20  # pixels of 224
_TIE = 4096  # how many values from 0 to 1 have a rank of their own
_MOMENTUM = 0.9


@dataclass(frozen=True)
class ExtremalPerturbationOptions(HidingOptions):
    """Options of extremal perturbations. None stands for a length in 224 pixels, in proportion to the image.

    Attributes:
        areas: how much is seen, as a part of the image between 0 and 1; masks of several areas are added. What a mask
            would show beyond the edges of the image counts too, so that places at the edges cost no less.
        steps: of gradient descent with momentum, at most.
        learning_rate: of these.
        cells: how many cells the mask has in each dimension; None for cells of 7 pixels in 224.
        width: of what a cell shows around it, in pixels; None for 9 in 224.
        area_weight: λ of the difference from the area at the start.
        growth: λ grows by this factor at every step.
        sigma: standard deviation in pixels of the Gaussian that blurs what is hidden; None for 20 in 224.
        levels: between how many widths of that blur, besides none, what is hidden in part is interpolated.
        baseline: what stands in the place of what is hidden, if not a blur: a value of every entry of the images as
            the model takes them, or an image.
        start: the mask at the start, from 0 for everything hidden to 1 for nothing.
        tolerance: a search stops when its loss has not fallen by this share within ``patience`` steps; None: never.
        patience: see there.

    Raises:
        OptionsError: a value has no meaning.
    """

    areas: float | tuple[float, ...] = 0.1
    steps: int = 800
    learning_rate: float = 0.01
    width: float | None = None
    area_weight: float = 300.0
    growth: float = 1.0035
    levels: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        several = isinstance(self.areas, list | tuple)
        object.__setattr__(self, "areas", tuple(self.areas) if several else (self.areas,))
        if not self.areas:
            raise OptionsError("areas is empty; give one area or more, such as 0.1.")
        for area in self.areas:
            require_number("areas", area, above=0, below=1)
        if self.width is not None:
            require_number("width", self.width, above=0, most=WIDEST)
        require_number("area_weight", self.area_weight, least=0)
        require_number("growth", self.growth, least=1)
        require_whole("levels", self.levels, 1)


class _Showing(Seeker):
    """Masks of an area each, that show what makes the target's logit large.

    The loss is λ mean (vecsort(M) - r_a)² - y_t(M ⊗ x) (eqs. 3 and 4), with the smooth mask M of `SmoothMaximum`.
    """

    def __init__(self, options: ExtremalPerturbationOptions, trace: Trace, run: Tensor) -> None:
        sizes = mask_sizes(trace)
        width = scaled_length(_WIDTH, sizes) if options.width is None else options.width
        self.options, self.trace = options, trace
        levels = seen_and_hidden(trace, options, _SIGMA, options.levels)
        self.masks = SmoothMaximum.of(sizes, cells_of(options.cells, _CELL, sizes), width, levels)
        seen = torch.tensor([round(area * math.prod(sizes)) for area in options.areas], device=run.device)
        mask = levels.new_full((len(levels), *self.masks.cells), options.start)
        self.state = {"mask": mask, "levels": levels, "seen": seen[run]}

    def images(self, step: int) -> Tensor:
        self.mask = self.masks.enlarged(self.state["mask"])
        seen = self.masks.inside(self.mask)
        images, self.change = blended(self.state["levels"], 1 - seen, self.trace.channel_dim)
        return images

    def advance(self, step: int, score: Tensor, gradient: Tensor) -> Tensor:
        options = self.options
        weight = options.area_weight * options.growth**step
        off = self.mask - ranked(self.mask, self.state["seen"])
        down = off * (2 * weight / math.prod(self.masks.sizes))
        self.masks.inside(down).add_(self.trace.over_channels((gradient * self.change)[None])[0])
        down = self.masks.adjoint(self.state["mask"], down)
        heavy_ball(self.state, "mask", down, options.learning_rate, _MOMENTUM)
        return weight * (off * off).flatten(1).sum(1) / math.prod(self.masks.sizes) - score

    def maps(self) -> Tensor:
        return self.masks.inside(self.masks.enlarged(self.state["mask"])).contiguous()


def ranked(mask: Tensor, seen: Tensor) -> Tensor:
    """What each pixel of masks has in the vector of an area: 1 for the largest, 0 for all others (sec. 3.2).

    Pixels with values that are the same up to 1/4096 rank together, and share what they have.

    Args:
        mask: (R, *spatial), from 0 to 1.
        seen: how many pixels have 1, (R,) int64.

    Returns:
        (R, *spatial).
    """
    values = (mask.flatten(1) * _TIE).round()
    ordered = values.sort(1)[0]
    first, last = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    zeros = values.shape[1] - seen[:, None]
    ones = (last - torch.maximum(first, zeros)).clamp_min(0)
    return (ones / (last - first)).to(mask).reshape(mask.shape)


def target_score(logits: Tensor, target: Tensor) -> Tensor:
    """The logit (R,) of targets (R, 1), of logits (R, classes)."""
    return logits.gather(1, target)[:, 0]


def extremal_perturbation(options: ExtremalPerturbationOptions) -> Method:
    """Extremal perturbation (Fong, Patrick and Vedaldi 2019): the mask of an area that shows most of the target."""
    search = Search(
        lambda trace, run: _Showing(options, trace, run),
        target_score,
        options.steps,
        options.tolerance,
        options.patience,
        runs=len(options.areas),
        held=options.levels + 24,
    )
    return Method(
        name="extremal-perturbation",
        streams=(gradient_stream(target_indicator),),
        read_out=gradient_at_point,
        needs=options.needs(),
        baseline=options.baseline_images(),
        search=search,
        scale="0 to the number of areas: in how many masks a pixel is seen",
        blank="the areas are too small for a pixel, or the search went nowhere. Give larger areas, or a smaller "
        "learning_rate",
    )


ENTRIES = (
    Entry(
        name="extremal-perturbation",
        title="extremal perturbation: the part of a given area that is best for the class when it alone is seen",
        citation="Fong, Patrick and Vedaldi, ICCV 2019",
        properties=Properties(gradients=True, attribution=False, class_specific=True, reaches_input=True),
        make=extremal_perturbation,
        options=ExtremalPerturbationOptions,
    ),
)
