"""Gradient × input as a rule table: no relevance at all, the map is read off the gradient stream."""

from __future__ import annotations

import torch

from agf_fx.methods.method import Method
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value, channel_sum
from agf_fx.rules.targets import each_target, indicator


@formula("∂y_t/∂y", "1 at the target, 0 elsewhere")
def target_indicator(y: Value, target: Value) -> Value:
    """The gradient of the target's logit with respect to all logits, shape (K, N, classes)."""
    return indicator(each_target(y, target), torch.unsqueeze(target, 2))


@formula("map", "Σ_c x ⊙ ∂y_t/∂x")
def input_times_gradient(images: Value, phi: Value, g: Value, rank: int, channel_dim: int | None) -> Value:
    """Images times gradient, summed over channels: (K, N, *spatial)."""
    return channel_sum(images * g, rank, channel_dim)


def gradient_times_input() -> Method:
    """Gradient × input (Shrikumar et al. 2016): Σ_c x ⊙ ∂y_t/∂x."""
    return Method(
        name="gradient_x_input",
        initial_gradient=target_indicator,
        read_out=input_times_gradient,
    )
