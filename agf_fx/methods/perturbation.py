"""Methods that hide parts of the images and look at what becomes of the target's score: they need no gradient."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from agf_fx.errors import OptionsError
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.methods.baseline import Baseline, checked_baseline, images_of, one_baseline
from agf_fx.methods.gradient import target_indicator
from agf_fx.methods.hiding import spatial_sizes
from agf_fx.methods.method import Method, Point, Points, Stream, Trace
from agf_fx.methods.needs import several_classes
from agf_fx.methods.noise import require_seed
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.table import NOTHING
from agf_fx.options import require_number, require_whole
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value
from agf_fx.rules.targets import weighted_logits

SCORE = "score"
"""The stream that tells a read-out which logits are explained; nothing passes on."""

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class OcclusionOptions:
    """Options of occlusion.

    Attributes:
        window: the sides of the window in pixels, one for all dimensions or one for each; None for an eighth of the
            image in each.
        stride: how far it moves, likewise, at most its side; None for half of its side.
        baseline: what stands in the window: a value of every entry of the images as the model takes them, or an image.

    Raises:
        OptionsError: a value has no meaning.
    """

    window: int | tuple[int, ...] | None = None
    stride: int | tuple[int, ...] | None = None
    baseline: float | Baseline = 0.0

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            value = getattr(self, name)
            if value is not None:
                sides = tuple(value) if isinstance(value, list | tuple) else (value,)
                for side in sides:
                    require_whole(name, side, 1)
                object.__setattr__(self, name, sides if isinstance(value, list | tuple) else value)
        object.__setattr__(self, "baseline", checked_baseline(self.baseline))


@dataclass(frozen=True)
class RISEOptions:
    """Options of RISE.

    Attributes:
        samples: how many masks.
        cells: how many cells a mask has in each dimension, before it is enlarged.
        probability: of a cell to be seen, between 0 and 1.
        seed: of the masks; the same seed gives the same maps, on every device.
        baseline: what is seen where a mask hides: a value of every entry of the images as the model takes them, or an
            image.

    Raises:
        OptionsError: a value has no meaning.
    """

    samples: int = 4000
    cells: int = 7
    probability: float = 0.5
    seed: int = 0
    baseline: float | Baseline = 0.0

    def __post_init__(self) -> None:
        require_whole("samples", self.samples, 1)
        require_whole("cells", self.cells, 1)
        require_number("probability", self.probability, above=0)
        if self.probability >= 1:
            raise OptionsError(f"probability is {self.probability!r}; give a number below 1: else nothing is hidden.")
        require_seed(self.seed)
        object.__setattr__(self, "baseline", checked_baseline(self.baseline))


@formula("y_t", "the target's logit")
def target_logit(trace: Trace) -> Value:
    """The target's logit: one number for each image and target, (K, N, 1, ...) with the rank of the images."""
    return _of_target(trace, trace.values[trace.canonical.logits.name])


@formula("p_t", "p = softmax(y), at the target")
def target_probability(trace: Trace) -> Value:
    """The target's probability, likewise; of outputs with positions that of what the target looks at."""
    logits, chosen = trace.values[trace.canonical.logits.name], trace.messages[SCORE][trace.canonical.logits.name]
    if len(trace.canonical.logits.meta["type"].sample_dims) == 1:
        return _of_target(trace, torch.softmax(logits, 1))
    chosen = torch.flatten(chosen, 3, -1)
    seen = weighted_logits(logits, torch.sum(chosen, [2]))
    found = torch.sum(torch.sum(chosen, [3]) * torch.softmax(seen, -1), [-1])
    return torch.reshape(found, [trace.targets, -1, *[1] * (trace.rank - 1)])


def _of_target(trace: Trace, values: Value) -> Value:
    logits = trace.canonical.logits
    chosen = trace.messages[SCORE][logits.name] * values
    found = torch.sum(chosen, logits.meta["type"].sample_dims)
    return torch.reshape(found, [trace.targets, -1, *[1] * (trace.rank - 1)])


def _on_images(mask: Tensor, trace: Trace) -> Tensor:
    """A mask (*spatial) in the dtype and on the device of the images, so that it broadcasts with them."""
    shape = list(trace.images.shape)
    for dim in (0, trace.channel_dim):
        if dim is not None:
            shape[dim] = 1
    return mask.to(trace.images).reshape(shape)


def _start(baseline: float | Baseline) -> Callable[[Trace], Value]:
    return lambda trace: trace.baseline if isinstance(baseline, Baseline) else float(baseline)


@dataclass(frozen=True)
class _Windows:
    """Where windows lie, by the sizes of the images.

    Attributes:
        sides: of the window, one for each dimension.
        places: where windows begin, one position for each dimension.
    """

    sizes: tuple[int, ...]
    sides: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(options: OcclusionOptions, sizes: tuple[int, ...]) -> _Windows:
        """The windows for images of these sizes.

        Raises:
            OptionsError: they have other dimensions, or the window is larger than the images or moves too far.
        """
        sides = _for_each("window", options.window, [max(1, size // 8) for size in sizes])
        steps = _for_each("stride", options.stride, [max(1, side // 2) for side in sides])
        for size, side, step in zip(sizes, sides, steps, strict=True):
            if side > size:
                raise OptionsError(f"window is {options.window!r} for images of {sizes}; give sides of at most these.")
            if step > side and side < size:
                raise OptionsError(
                    f"stride is {step} for a window of {side}, and leaves pixels out; give {side} or less."
                )
        ranges = [
            range(0, math.ceil((size - side) / step) * step + 1, step)
            for size, side, step in zip(sizes, sides, steps, strict=True)
        ]
        return _Windows(sizes, sides, tuple(itertools.product(*ranges)))

    def mask(self, place: tuple[int, ...]) -> Tensor:
        """1 in the window at a place, 0 elsewhere; cut off at the border."""
        mask = torch.zeros(self.sizes, dtype=torch.float64)
        mask[tuple(slice(begin, begin + side) for begin, side in zip(place, self.sides, strict=True))] = 1
        return mask

    def coverage(self) -> Tensor:
        """How many windows cover each pixel: 1 or more."""
        return sum(map(self.mask, self.places), torch.zeros(self.sizes, dtype=torch.float64))


def _for_each(name: str, value: int | tuple[int, ...] | None, default: list[int]) -> tuple[int, ...]:
    """A number for each dimension."""
    found = default if value is None else [value] * len(default) if isinstance(value, int) else list(value)
    if len(found) != len(default):
        raise OptionsError(f"{name} is {value!r} for images of {len(default)} dimensions; give a number for each.")
    return tuple(found)


def occlusion(options: OcclusionOptions) -> Method:
    """Occlusion (Zeiler and Fergus 2014): how much the logit falls without a window, on average over windows."""
    start = _start(options.baseline)

    def points(canonical: CanonicalGraph, channel_dim: int | None) -> tuple[Point, ...]:
        windows = _Windows.of(options, spatial_sizes(canonical, channel_dim))
        coverage = windows.coverage()

        def hidden(place: tuple[int, ...]) -> Point:
            def of(trace: Trace) -> Value:
                return torch.where(_on_images(windows.mask(place), trace) > 0, _like(start(trace), trace), trace.images)

            return Point(of, -1.0, lambda trace: _on_images(windows.mask(place) / coverage, trace))

        whole = Point(lambda trace: trace.images, 1.0, lambda trace: _on_images(torch.ones_like(coverage), trace))
        return (whole, *map(hidden, windows.places))

    return Method(
        name="occlusion",
        streams=(Stream(SCORE, rules=NOTHING, seed=target_indicator, derives=True),),
        read_out=target_logit,
        needs=_needs(options.baseline),
        baseline=images_of(options.baseline),
        points=Points(points, _summed, unwritable="hides windows one after the other"),
        scale="signed, in units of the logit: by how much it falls",
        blank="the logit is the same, whichever window is hidden. Give larger windows, or another baseline",
    )


def _like(start: Value, trace: Trace) -> Tensor:
    """The baseline, shaped like one image."""
    return torch.as_tensor(start, dtype=trace.images.dtype, device=trace.images.device)


@formula("map", "Σ_s w_s m_s ⊙ y_t(x_s)")
def _summed(trace: Trace, total: Value) -> Value:
    return trace.over_channels(total)


@functools.lru_cache(maxsize=64)  # a group of points asks twice for each mask
def random_mask(index: int, options: RISEOptions, sizes: tuple[int, ...]) -> Tensor:
    """Mask ``index`` for images of these sizes, between 0 and 1, as float32 draws it on a CPU.

    Cells are seen or hidden, enlarged to a grid with one more cell in each dimension, and moved by less than a cell.
    """
    generator = torch.Generator().manual_seed((options.seed << 20) + index)
    dims = len(sizes)
    seen = torch.rand([options.cells] * dims, generator=generator) < options.probability
    sides = [math.ceil(size / options.cells) for size in sizes]
    moved = [int(torch.randint(side, (1,), generator=generator)) for side in sides]
    enlarged = torch.nn.functional.interpolate(
        seen[None, None].float(), [(options.cells + 1) * side for side in sides], mode=_INTERPOLATION[dims]
    )[0, 0]
    return enlarged[tuple(slice(begin, begin + size) for begin, size in zip(moved, sizes, strict=True))].clone()


def rise(options: RISEOptions) -> Method:
    """RISE (Petsiuk, Das and Saenko 2018): the mean of random masks, weighted by the probability that they leave."""
    start = _start(options.baseline)

    def points(canonical: CanonicalGraph, channel_dim: int | None) -> tuple[Point, ...]:
        sizes = spatial_sizes(canonical, channel_dim)
        if len(sizes) not in _INTERPOLATION:
            raise OptionsError(f"RISE is for images of 1 to 3 dimensions, and these have {len(sizes)}.")

        def seen(index: int) -> Point:
            def mask(trace: Trace) -> Tensor:
                return _on_images(random_mask(index, options, sizes), trace)

            def of(trace: Trace) -> Value:
                return trace.images * mask(trace) + start(trace) * (1 - mask(trace))

            return Point(of, 1 / (options.samples * options.probability), mask)

        return tuple(map(seen, range(options.samples)))

    return Method(
        name="rise",
        streams=(Stream(SCORE, rules=NOTHING, seed=target_indicator, derives=True),),
        read_out=target_probability,
        needs=(several_classes("rise"), *_needs(options.baseline)),
        baseline=images_of(options.baseline),
        points=Points(points, _summed, unwritable="draws its masks at random"),
        scale="0 or more: the expected probability where a pixel is seen",
        blank="no mask shows anything, or the probability is 0 under each of them. Give more samples, or a larger "
        "probability",
    )


def _needs(baseline: float | Baseline) -> tuple[Callable[[CanonicalGraph], None], ...]:
    return (one_baseline(baseline),) if isinstance(baseline, Baseline) else ()


_PROPERTIES = Properties(gradients=False, attribution=False, class_specific=True, reaches_input=True)

ENTRIES = (
    Entry(
        name="occlusion",
        title="occlusion: by how much the logit falls without a window of the images",
        citation="Zeiler and Fergus, ECCV 2014",
        properties=_PROPERTIES,
        make=occlusion,
        options=OcclusionOptions,
    ),
    Entry(
        name="rise",
        title="RISE: random masks, weighted by the probability that they leave",
        citation="Petsiuk, Das and Saenko, BMVC 2018",
        properties=_PROPERTIES,
        make=rise,
        options=RISEOptions,
    ),
)
