"""Meaningful perturbations: the smallest smooth part of an image that has to be hidden for the class to go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agf_fx.methods.descent import adam
from agf_fx.methods.hiding import (
    WIDEST,
    HidingOptions,
    along,
    blended,
    cells_of,
    gaussian,
    linear,
    mask_sizes,
    scaled_length,
    seen_and_hidden,
    shifted,
)
from agf_fx.methods.method import Method, Search, Seeker, Trace
from agf_fx.methods.needs import several_classes
from agf_fx.methods.noise import require_seed
from agf_fx.methods.path import gradient_at_point
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.streams import gradient_stream
from agf_fx.options import require_number, require_whole
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value
from agf_fx.rules.targets import each_target, indicator

_CELL, _SIGMA, _SMOOTHNESS, _JITTER = 8, 10, 5, 4  # pixels of 224, as published


@dataclass(frozen=True)
class MeaningfulPerturbationOptions(HidingOptions):
    """Options of meaningful perturbations. None stands for the published length, in proportion to the image.

    Attributes:
        steps: of Adam, at most.
        learning_rate: of Adam.
        cells: how many cells the mask has in each dimension; None for cells of 8 pixels in 224.
        area_weight: λ₁ of the mean part that is hidden; published as 1e-4 for each of 28 × 28 cells.
        smoothness_weight: λ₂ of the differences between neighbouring cells.
        beta: the power β of these differences.
        smoothness: standard deviation in pixels of the Gaussian that smooths the enlarged mask; None for 5 in 224.
        sigma: standard deviation in pixels of the Gaussian that blurs what is hidden; None for 10 in 224.
        baseline: what stands in the place of what is hidden, if not a blur: a value of every entry of the images as
            the model takes them, or an image.
        start: the mask at the start, from 0 for everything hidden to 1 for nothing.
        jitter: by how many pixels at most images move under the mask, at random at every step; None for 4 in 224.
        seed: of these; the same seed gives the same maps, on every device.
        tolerance: a search stops when its loss has not fallen by this share within ``patience`` steps; None: never.
        patience: see there.

    Raises:
        OptionsError: a value has no meaning.
    """

    steps: int = 300
    learning_rate: float = 0.1
    area_weight: float = 0.08
    smoothness_weight: float = 0.01
    beta: float = 3.0
    smoothness: float | None = None
    start: float = 0.5
    jitter: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("area_weight", self.area_weight, least=0)
        require_number("smoothness_weight", self.smoothness_weight, least=0)
        require_number("beta", self.beta, least=1)
        if self.smoothness is not None:
            require_number("smoothness", self.smoothness, least=0, most=WIDEST)
        if self.jitter is not None:
            require_whole("jitter", self.jitter, 0)
        require_seed(self.seed)


@formula("∂p_t/∂y", "p_t (e_t - p), p = softmax(y)")
def probability_gradient(y: Value, target: Value) -> Value:
    """The gradient of the target's probability with respect to all logits, (K, N, classes)."""
    p, index = each_target(torch.softmax(y, -1), target), torch.unsqueeze(target, 2)
    found = indicator(p, index)
    others = p * (-found + 1.0)
    # 1 - p_t as the sum of the others, which keeps its digits
    return torch.gather(p, 2, index) * (found * torch.sum(others, [2], True) - others)


def probability(logits: Tensor, target: Tensor) -> Tensor:
    """The probability (R,) of targets (R, 1), by logits (R, classes)."""
    return torch.softmax(logits, -1).gather(1, target)[:, 0]


class _Hiding(Seeker):
    """Masks that hide as little as they can, and as smoothly, of what makes the target probable.

    The loss is λ₁ mean(1 - m) + λ₂ Σ|∇m|^β + p_t(x̃), with x̃ = b + (U m) ⊙ (x - b) (eqs. 4 and 5).
    """

    def __init__(self, options: MeaningfulPerturbationOptions, trace: Trace) -> None:
        sizes = mask_sizes(trace)
        cells = cells_of(options.cells, _CELL, sizes)
        smoothness = scaled_length(_SMOOTHNESS, sizes) if options.smoothness is None else options.smoothness
        self.enlarge = [gaussian(size, smoothness) @ linear(size, few) for size, few in zip(sizes, cells, strict=True)]
        self.jitter = round(scaled_length(_JITTER, sizes)) if options.jitter is None else options.jitter
        self.options, self.channel_dim = options, trace.channel_dim
        self.trace, self.dims = trace, range(1, len(sizes) + 1)
        levels = seen_and_hidden(trace, options, _SIGMA, 1)
        mask = levels.new_full((len(levels), *cells), options.start)
        self.state = {"mask": mask, "levels": levels}

    def images(self, step: int) -> Tensor:
        levels = shifted(self.state["levels"], self._shifts(step), self.channel_dim)
        images, self.change = blended(levels, self.maps(), self.channel_dim)
        return images

    def _shifts(self, step: int) -> list[int]:
        """How far the images of a step move in each dimension: the same for all."""
        generator = torch.Generator().manual_seed((self.options.seed << 20) + step)
        return torch.randint(self.jitter + 1, (len(self.dims),), generator=generator).tolist()

    def advance(self, step: int, score: Tensor, gradient: Tensor) -> Tensor:
        options, mask = self.options, self.state["mask"]
        roughness, slope = total_variation(mask, options.beta)
        up = self.trace.over_channels((gradient * self.change)[None])[0]
        up = along(up, [matrix.T for matrix in self.enlarge], self.dims) + options.area_weight / mask[0].numel()
        adam(self.state, "mask", options.smoothness_weight * slope - up, step, options.learning_rate)
        area = (1 - mask).flatten(1).mean(1)
        return options.area_weight * area + options.smoothness_weight * roughness + score

    def maps(self) -> Tensor:
        return along(1 - self.state["mask"], self.enlarge, self.dims)


def total_variation(mask: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Σ|∇m|^β over all neighbours, of masks (R, *cells): (R,); and its gradient, (R, *cells)."""
    total, slope = mask.new_zeros(len(mask)), torch.zeros_like(mask)
    for dim in range(1, mask.dim()):
        difference = mask.diff(dim=dim)
        total = total + (difference.abs() ** beta).flatten(1).sum(1)
        rise = beta * difference.abs() ** (beta - 1) * difference.sign()
        last = mask.shape[dim] - 1
        slope.narrow(dim, 1, last).add_(rise)
        slope.narrow(dim, 0, last).sub_(rise)
    return total, slope


def meaningful_perturbation(options: MeaningfulPerturbationOptions) -> Method:
    """Meaningful perturbation (Fong and Vedaldi 2017): 1 - m for the mask m that leaves the least probability."""
    search = Search(
        lambda trace, run: _Hiding(options, trace),
        probability,
        options.steps,
        options.tolerance,
        options.patience,
    )
    return Method(
        name="meaningful-perturbation",
        streams=(gradient_stream(probability_gradient),),
        read_out=gradient_at_point,
        needs=(several_classes("meaningful-perturbation"), *options.needs()),
        baseline=options.baseline_images(),
        search=search,
        scale="0 to 1: how much of a pixel has to be hidden",
        blank="to hide anything would cost more than the probability that it takes away. Lower area_weight, or give a "
        "larger sigma or a baseline, of which less is seen",
    )


ENTRIES = (
    Entry(
        name="meaningful-perturbation",
        title="meaningful perturbation: the smallest smooth part that has to be hidden for the class to go",
        citation="Fong and Vedaldi, ICCV 2017",
        properties=Properties(gradients=True, attribution=False, class_specific=True, reaches_input=True),
        make=meaningful_perturbation,
        options=MeaningfulPerturbationOptions,
    ),
)
