"""Path methods: gradients at many points between a baseline and the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agf_fx.errors import OptionsError
from agf_fx.methods.baseline import NOT_FINITE, Baseline, checked_baseline, images_of, one_baseline
from agf_fx.methods.gradient import target_indicator
from agf_fx.methods.method import Method, Point, Points, Trace
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.streams import gradient_stream
from agf_fx.options import require_one_of, require_whole
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value
from agf_fx.rules.site import GRADIENT

_MOST_NODES = 2000
RULES = ("gauss-legendre", "trapezoid", "left", "right", "middle")


@dataclass(frozen=True)
class IntegratedGradientsOptions:
    """Options of Integrated Gradients.

    Attributes:
        steps: at how many points the gradient is taken.
        baseline: where the path starts, as the model takes images: a value of every entry, or one image, as a
            tensor, an array, or a file that ends in .npy, .pt or .safetensors.
        rule: how the integral is approximated: ``"gauss-legendre"``, ``"trapezoid"``, or a Riemann sum with the
            ``"left"``, ``"right"`` or ``"middle"`` of each step.

    Raises:
        OptionsError: a value has no meaning.
    """

    steps: int = 50
    baseline: float | Baseline = 0.0
    rule: str = "gauss-legendre"

    def __post_init__(self) -> None:
        require_one_of("rule", self.rule, RULES)
        require_whole("steps", self.steps, 2 if self.rule == "trapezoid" else 1)
        object.__setattr__(self, "baseline", checked_baseline(self.baseline))
        if self.rule == "gauss-legendre" and self.steps > _MOST_NODES:
            raise OptionsError(
                f"steps is {self.steps}, and gauss-legendre is for up to {_MOST_NODES}, which is more than any network "
                'needs; choose another rule, such as "middle".'
            )


def integrated_gradients(options: IntegratedGradientsOptions) -> Method:
    """Integrated Gradients (Sundararajan, Taly and Yan 2017): Σ_c (x - b) ⊙ ∫ ∂y_t(b + α(x - b))/∂x dα."""
    baseline = images_of(options.baseline)

    def start(trace: Trace) -> Value:
        return float(options.baseline) if baseline is None else trace.baseline

    def read(trace: Trace, average: Value) -> Value:
        return trace.over_channels((trace.images - start(trace)) * average)

    points = tuple(Point(_between(start, position), weight) for position, weight in quadrature(options))
    return Method(
        name="integrated-gradients",
        streams=(gradient_stream(target_indicator),),
        read_out=gradient_at_point,
        needs=() if baseline is None else (one_baseline(baseline),),
        baseline=baseline,
        points=Points(points, formula("map", "Σ_c (x - b) ⊙ Σ_s w_s ∂y_t/∂x_s")(read)),
        scale="signed, in units of the logit: sums to its difference from the baseline's",
        not_finite=NOT_FINITE,
    )


@formula("∇", "∂y_t/∂x_s")
def gradient_at_point(trace: Trace) -> Value:
    """The gradient at the images, as it is: (K, N, *image)."""
    return trace.at_images(GRADIENT)


def _between(start: Callable[[Trace], Value], position: float) -> Callable[[Trace], Value]:
    """x -> b + α (x - b)."""
    return lambda trace: trace.images * position + start(trace) * (1 - position)


def quadrature(options: IntegratedGradientsOptions) -> list[tuple[float, float]]:
    """Positions between 0 and 1, and their weights, which sum to 1."""
    steps = options.steps
    if options.rule == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return [((1 + node) / 2, weight / 2) for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)]
    if options.rule == "trapezoid":
        inner = 1 / (steps - 1)
        return [(i * inner, inner / (1 + (i in (0, steps - 1)))) for i in range(steps)]
    offset = {"left": 0.0, "middle": 0.5, "right": 1.0}[options.rule]
    return [((i + offset) / steps, 1 / steps) for i in range(steps)]


ENTRIES = (
    Entry(
        name="integrated-gradients",
        title="integrated gradients, from a constant image to the images",
        citation="Sundararajan, Taly and Yan, ICML 2017",
        properties=Properties(gradients=True, attribution=False, class_specific=True, reaches_input=True),
        make=integrated_gradients,
        options=IntegratedGradientsOptions,
    ),
)
