"""Gradient × input: no relevance at all, the map is read off the gradient."""

from __future__ import annotations

import torch

from agf_fx.methods.method import Method, Trace
from agf_fx.methods.streams import gradient_stream
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value
from agf_fx.rules.site import GRADIENT
from agf_fx.rules.targets import each_target, indicator


@formula("∂y_t/∂y", "1 at the target, 0 elsewhere")
def target_indicator(y: Value, target: Value) -> Value:
    """The gradient of the target's logit with respect to all logits, shape (K, N, classes)."""
    return indicator(each_target(y, target), torch.unsqueeze(target, 2))


@formula("map", "Σ_c x ⊙ ∂y_t/∂x")
def input_times_gradient(trace: Trace) -> Value:
    """Images times gradient, summed over channels: (K, N, *spatial)."""
    return trace.over_channels(trace.images * trace.at_images(GRADIENT))


def gradient_times_input() -> Method:
    """Gradient × input (Shrikumar et al. 2016): Σ_c x ⊙ ∂y_t/∂x."""
    return Method(
        name="gradient-x-input",
        streams=(gradient_stream(target_indicator),),
        read_out=input_times_gradient,
        scale="signed, in units of the logit: sums to it for networks without biases",
    )
