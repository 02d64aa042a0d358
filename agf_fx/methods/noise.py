"""Gradients at many points around the images, drawn at random: their mean, mean square and variance.

The noise of a point belongs to the point and is the same for every image, so that a map does not depend on the images
beside it, nor on the pieces in which a batch is explained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from agf_fx.errors import OptionsError
from agf_fx.methods.baseline import NOT_FINITE, Baseline, checked_baseline, images_of, one_baseline
from agf_fx.methods.gradient import target_indicator
from agf_fx.methods.method import Method, Point, Points, Trace
from agf_fx.methods.path import gradient_at_point
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.streams import gradient_stream
from agf_fx.options import require_number, require_whole
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value


@dataclass(frozen=True)
class SmoothGradOptions:
    """Options of methods that add noise to the images.

    Attributes:
        samples: how many noisy copies of each image.
        noise: the standard deviation of Gaussian noise, as a share of the range of values in each image.
        seed: of the noise; the same seed gives the same maps, on every device.

    Raises:
        OptionsError: a value has no meaning.
    """

    samples: int = 50
    noise: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole("samples", self.samples, 1)
        require_seed(self.seed)
        require_number("noise", self.noise, least=0)


@dataclass(frozen=True)
class GradientSHAPOptions(SmoothGradOptions):
    """Options of Gradient SHAP.

    Attributes:
        samples: how many points for each image.
        noise: the standard deviation of Gaussian noise, as a share of the range of values in each image.
        seed: of noise and positions; the same seed gives the same maps, on every device.
        baseline: where the paths start, as the model takes images: a value of every entry, or one image, as a
            tensor, an array, or a file that ends in .npy, .pt or .safetensors.

    Raises:
        OptionsError: a value has no meaning.
    """

    noise: float = 0.09
    baseline: float | Baseline = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "baseline", checked_baseline(self.baseline))


@dataclass(frozen=True)
class ExpectedGradientsOptions:
    """Options of expected gradients.

    Attributes:
        samples: how many points for each image.
        seed: of positions and of which baseline a point belongs to; the same seed gives the same maps.
        baseline: where the paths start, as the model takes images: several of them, (B, *image), as a tensor, an
            array, or a file that ends in .npy, .pt or .safetensors; or a value of every entry.

    Raises:
        OptionsError: a value has no meaning.
    """

    samples: int = 50
    seed: int = 0
    baseline: float | Baseline = 0.0

    def __post_init__(self) -> None:
        require_whole("samples", self.samples, 1)
        require_seed(self.seed)
        object.__setattr__(self, "baseline", checked_baseline(self.baseline))


def require_seed(seed: object) -> None:
    """Raise an OptionsError unless ``seed`` is a whole number from 0 to 2³² - 1."""
    require_whole("seed", seed, 0)
    if seed >= 1 << 32:
        raise OptionsError(f"seed is {seed}; give a whole number below {1 << 32}.")


def drawn(images: Value, seed: int, index: int) -> Value:
    """Standard normal noise (1, *image) of point ``index``, as float32 draws it on a CPU, whatever the device."""
    generator = torch.Generator().manual_seed((seed << 20) + index)
    return torch.randn(1, *images.shape[1:], generator=generator, dtype=torch.float32).to(images)


def spread(images: Value) -> Value:
    """The range of values in each image, (N, 1, ...)."""
    dims = list(range(1, images.dim()))
    return images.amax(dims, keepdim=True) - images.amin(dims, keepdim=True)


def _noisy(options: SmoothGradOptions, index: int) -> Callable[[Trace], Value]:
    """x -> x + σ (max x - min x) ε_s."""

    def of(trace: Trace) -> Value:
        images = trace.images
        return images + drawn(images, options.seed, index) * spread(images) * options.noise

    return of


def _square(found: Value) -> Value:
    return found * found


def _around(
    name: str,
    options: SmoothGradOptions,
    moments: tuple[Callable[[Value], Value], ...],
    read: Callable[..., Value],
    scale: str,
    from_first: bool = False,
) -> Method:
    points = tuple(Point(_noisy(options, index), 1 / options.samples) for index in range(options.samples))
    return Method(
        name=name,
        streams=(gradient_stream(target_indicator),),
        read_out=gradient_at_point,
        points=Points(points, read, moments, unwritable="draws its points at random", from_first=from_first),
        scale=scale,
    )


@formula("map", "Σ_c mean_s ∂y_t/∂x_s")
def _mean(trace: Trace, mean: Value) -> Value:
    return trace.over_channels(mean)


@formula("map", "Σ_c mean_s (∂y_t/∂x_s)²")
def _mean_square(trace: Trace, square: Value) -> Value:
    return trace.over_channels(square)


@formula("map", "Σ_c var_s ∂y_t/∂x_s")
def _variance(trace: Trace, mean: Value, square: Value) -> Value:
    return trace.over_channels(torch.clamp_min(square - mean * mean, 0))


@formula("map", "Σ_c mean_s (x̃_s - b) ⊙ ∂y_t/∂x_s")
def _mean_product(trace: Trace, mean: Value) -> Value:
    return trace.over_channels(mean)


def smoothgrad(options: SmoothGradOptions) -> Method:
    """SmoothGrad (Smilkov et al. 2017): the mean of gradients at noisy copies of the images."""
    itself = (lambda found: found,)
    return _around("smoothgrad", options, itself, _mean, "signed, in units of the logit per unit of the images")


def smoothgrad_squared(options: SmoothGradOptions) -> Method:
    """SmoothGrad² (Hooker et al. 2019): the mean of squared gradients at noisy copies of the images."""
    return _around("smoothgrad-squared", options, (_square,), _mean_square, "0 or more")


def vargrad(options: SmoothGradOptions) -> Method:
    """VarGrad (Adebayo et al. 2018): the variance of gradients at noisy copies of the images."""
    return _around("vargrad", options, (lambda found: found, _square), _variance, "0 or more", from_first=True)


def gradient_shap(options: GradientSHAPOptions) -> Method:
    """Gradient SHAP (Lundberg and Lee 2017): Σ_c mean_s (x̃_s - b) ⊙ ∂y_t(b + α_s(x̃_s - b))/∂x, x̃_s the noisy images."""
    baseline = images_of(options.baseline)
    generator = torch.Generator().manual_seed(options.seed)
    positions = torch.rand(options.samples, generator=generator, dtype=torch.float64).tolist()

    def start(trace: Trace) -> Value:
        return float(options.baseline) if baseline is None else trace.baseline

    def point(index: int, position: float) -> Point:
        noisy = _noisy(options, index)
        return Point(
            lambda trace: noisy(trace) * position + start(trace) * (1 - position),
            1 / options.samples,
            lambda trace: noisy(trace) - start(trace),
        )

    points = tuple(point(index, position) for index, position in enumerate(positions))
    return Method(
        name="gradient-shap",
        streams=(gradient_stream(target_indicator),),
        read_out=gradient_at_point,
        points=Points(points, _mean_product, unwritable="draws its points at random"),
        scale="signed, in units of the logit: about its difference from the baseline's",
        not_finite=NOT_FINITE,
        needs=() if baseline is None else (one_baseline(baseline),),
        baseline=baseline,
    )


@formula("map", "Σ_c mean_s (x - b_s) ⊙ ∂y_t/∂x_s")
def _mean_difference(trace: Trace, mean: Value) -> Value:
    return trace.over_channels(mean)


def expected_gradients(options: ExpectedGradientsOptions) -> Method:
    """Expected gradients (Erion et al. 2021): Σ_c mean_s (x - b_s) ⊙ ∂y_t(b_s + α_s(x - b_s))/∂x.

    A point belongs to one of the baselines, drawn with replacement, and to a position α_s; both are the same for all
    images.
    """
    generator = torch.Generator().manual_seed(options.seed)
    draws = torch.rand(2, options.samples, generator=generator, dtype=torch.float64).tolist()

    def point(position: float, choice: float) -> Point:
        def start(trace: Trace) -> Value:
            chosen = int(choice * len(trace.baseline))
            return trace.baseline[chosen : chosen + 1]

        return Point(
            lambda trace: trace.images * position + start(trace) * (1 - position),
            1 / options.samples,
            lambda trace: trace.images - start(trace),
        )

    return Method(
        name="expected-gradients",
        streams=(gradient_stream(target_indicator),),
        read_out=gradient_at_point,
        points=Points(tuple(map(point, *draws)), _mean_difference, unwritable="draws its points at random"),
        scale="signed, in units of the logit: about its mean difference from the baselines'",
        not_finite=NOT_FINITE,
        baseline=Baseline(options.baseline),
    )


_PROPERTIES = Properties(gradients=True, attribution=False, class_specific=True, reaches_input=True)

ENTRIES = (
    Entry(
        name="smoothgrad",
        title="SmoothGrad: the mean of gradients at noisy copies of the images",
        citation="Smilkov, Thorat, Kim, Viégas and Wattenberg, 2017",
        properties=_PROPERTIES,
        make=smoothgrad,
        options=SmoothGradOptions,
    ),
    Entry(
        name="smoothgrad-squared",
        title="SmoothGrad squared: the mean of squared gradients at noisy copies of the images",
        citation="Hooker, Erhan, Kindermans and Kim, NeurIPS 2019",
        properties=_PROPERTIES,
        make=smoothgrad_squared,
        options=SmoothGradOptions,
    ),
    Entry(
        name="vargrad",
        title="VarGrad: the variance of gradients at noisy copies of the images",
        citation="Adebayo, Gilmer, Goodfellow and Kim, ICLR workshop 2018",
        properties=_PROPERTIES,
        make=vargrad,
        options=SmoothGradOptions,
    ),
    Entry(
        name="gradient-shap",
        title="Gradient SHAP: gradients at noisy random points between a baseline and the images",
        citation="Lundberg and Lee, NeurIPS 2017; Erion, Janizek, Sturmfels, Lundberg and Lee, 2021",
        properties=_PROPERTIES,
        make=gradient_shap,
        options=GradientSHAPOptions,
    ),
    Entry(
        name="expected-gradients",
        title="expected gradients: gradients at random points between the images and random ones of several baselines",
        citation="Erion, Janizek, Sturmfels, Lundberg and Lee, Nature Machine Intelligence 2021",
        properties=_PROPERTIES,
        make=expected_gradients,
        options=ExpectedGradientsOptions,
    ),
)
