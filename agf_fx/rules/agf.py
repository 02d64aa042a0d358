"""The rules of Attribution Guided Factorization (Gur, Ali and Wolf, AAAI 2021); equation numbers are the paper's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agf_fx.options import AGFOptions
from agf_fx.rules.factorisation import guided_factorisation
from agf_fx.rules.gradients import vjp
from agf_fx.rules.linear_maps import adjoint, apply
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import (
    Value,
    channel_mean,
    delta_shift,
    div,
    divide_or_zero,
    expand,
    max_normalise,
    nonzero,
    per_sample,
)
from agf_fx.rules.propagation import absolute_influence
from agf_fx.rules.site import Site

aten = torch.ops.aten


@formula("∂ŷ_t/∂y", "ŷ = softmax(y_t · exp(-½((y - y_t)/σ)²)), σ = max|y - y_t|  (eq. 8)")
def softened_target_gradient(y: Value, target: Value) -> Value:
    """∂ŷ_t/∂y, differentiated through y_t and σ as well.

    Args:
        y: logits (N, classes).
        target: classes (N,), int64.

    Returns:
        (N, classes). All zero where all logits are equal.
    """
    index = torch.unsqueeze(target, 1)
    is_target = torch.scatter(torch.zeros_like(y), 1, index, 1.0)
    y_t = torch.gather(y, 1, index)
    d = y - y_t
    sigma = torch.amax(torch.abs(d), [1], True)
    scale = torch.masked_fill(sigma, sigma == 0, 1.0)
    u = d / scale
    e = torch.exp(u * u * -0.5)
    p = torch.softmax(y_t * e, 1)
    others = torch.masked_fill(p, is_target != 0, 0.0)
    # ∂ŷ_t/∂s for s = y_t e: p_t ([i = t] - p_i), with 1 - p_t as the sum of the others, which keeps its digits.
    q = torch.gather(p, 1, index) * (is_target * torch.sum(others, [1], True) - others)
    v = -(q * y_t * e * u)  # ∂ŷ_t/∂u
    widest = torch.abs(d) == sigma
    ties = torch.sum(widest, [1], True)
    through_sigma = torch.sum(v * u, [1], True) * widest * torch.sign(d) / ties
    D = (v - through_sigma) / scale  # ∂ŷ_t/∂d
    return D + is_target * (torch.sum(q * e, [1], True) - torch.sum(D, [1], True))


def guided_convolution(
    site: Site, phi: Value, g: Value, g_in: tuple[Value, ...], options: AGFOptions
) -> tuple[Value, ...]:
    """A convolution with its residual terms: Φ_in = Δ(C, r) (eqs. 9-14)."""
    C = absolute_influence(site, phi)
    r = residual(site, phi, g, g_in[0], C, options)
    return (C,) if r is None else (_shift(C, r, site.x_type.rank),)


@formula("r", "r = (A + F_∇x + (F_x + M) / (1 + exp(-C))) ⊙ [C ≠ 0]  (eq. 13)")
def residual(site: Site, phi: Value, g: Value, g_x: Value, C: Value, options: AGFOptions) -> Value | None:
    """r, or None when every part is switched off."""
    x, spatial, partition = site.x, site.x_type.sample_shape[1:], channel_mean(C)
    # The published code takes the gradient of F_∇x, and of Grad-CAM, from the outputs with relevance only.
    seen = vjp(site, g * nonzero(phi))[0]
    numerator: list[Value] = []
    if options.numerator == "gradcam":
        numerator.append(grad_cam(x, seen, len(spatial)))
    else:
        if options.factorise_input:
            numerator.append(factorised_input(x, partition, spatial, options.dialect))
        if options.input_gradient:
            numerator.append(input_gradient(x, g_x, site.x_type.rank))
    parts = [sum(numerator[1:], numerator[0])] if numerator else []
    if parts and options.regulariser:
        parts = [parts[0] * torch.sigmoid(C)]
    if options.factorise_gradient:
        parts.append(factorised_gradient(seen, partition, spatial, options.dialect))
    if options.input_agnostic:
        parts.append(input_agnostic_influence(site, phi))
    return sum(parts[1:], parts[0]) * nonzero(C) if parts else None


@formula("A", "A = |L|ᵀ(Φ / |L|1)  (eq. 10)")
def input_agnostic_influence(site: Site, phi: Value) -> Value:
    """A: what C would be for an input of ones. |L|1 depends on the weights alone; its batch size is 1."""
    weight = torch.abs(site.weight)
    ones = aten.new_ones.default(site.weight, [1, *site.x_type.sample_shape])
    return adjoint(site, div(phi, apply(site, ones, weight)), weight)


@formula("F_x", "F_x = F(N_max(x), C)⁺  (eq. 11)")
def factorised_input(x: Value, partition: Value, spatial: Sequence[int], dialect: str) -> Value:
    """F_x, shape (N, 1, *spatial)."""
    return torch.relu(guided_factorisation(x, partition, spatial, dialect))


@formula("F_∇x", "F_∇x = F(N_max(∇x), C)⁺  (eq. 11)")
def factorised_gradient(g: Value, partition: Value, spatial: Sequence[int], dialect: str) -> Value:
    """F_∇x, shape (N, 1, *spatial)."""
    return torch.relu(guided_factorisation(g, partition, spatial, dialect))


@formula("M", "M = N_max(mean_c(x ⊙ ∇x)⁺)  (eq. 12)")
def input_gradient(x: Value, g: Value, rank: int) -> Value:
    """M, shape (N, 1, *spatial)."""
    return max_normalise(torch.relu(channel_mean(x * g)), rank)


@formula("Grad-CAM", "mean_c(x ⊙ mean_hw ∇x)⁺  (eq. 6)")
def grad_cam(x: Value, g: Value, spatial_dims: int) -> Value:
    """The Grad-CAM term of the last ablation of Tab. 5, shape (N, 1, *spatial)."""
    pooled = torch.mean(g, list(range(2, 2 + spatial_dims)), True)
    return torch.relu(channel_mean(x * pooled))


@formula("Φ", "Φ_in = Δ(C, r)  (eqs. 4 and 14)")
def _shift(C: Value, r: Value, rank: int) -> Value:
    return delta_shift(C, r, rank)


def flatten_boundary(site: Site, phi: Value, g: Value, g_in: tuple[Value, ...]) -> tuple[Value, ...]:
    """A linear layer behind a flattened feature map: Φ_in = Δ(C, M), M taken in the map's shape (Alg. 1, l. 7-13)."""
    C = absolute_influence(site, phi)
    M = flattened_input_gradient(site, g_in[0], C)
    return (_shift(C, M, site.x_type.rank),)


@formula("M", "M = N_max(mean_c(x ⊙ ∇x)⁺ ⊙ [C ≠ 0])  (eq. 12)")
def flattened_input_gradient(site: Site, g: Value, C: Value) -> Value:
    """M at a flatten boundary, in the flattened shape."""
    boundary = site.facts.flatten_boundary
    product = torch.reshape(site.x * g, [-1, *boundary.shape])
    mean = expand(torch.mean(product, [boundary.channel_dim], True), boundary.shape)
    M = torch.relu(torch.reshape(mean, [-1, *site.x_type.sample_shape])) * nonzero(C)
    return max_normalise(M, site.x_type.rank)


@formula("Φ", "x ⊙ Σ_i Φ_i / x")
def fan_out(x: Value, contributions: list[Value]) -> Value:
    """One tensor read by several consumers: the sum of their relevances, 0 where x = 0."""
    shares = [div(phi, x) for phi in contributions]
    return x * sum(shares[1:], shares[0])


@formula("map", "Σ_c Φ / max Φ")
def normalised_channel_sum(images: Value, phi: Value, g: Value, rank: int) -> Value:
    """The heat map: relevance over its maximum, summed over channels: (N, *spatial), signed."""
    return torch.sum(divide_or_zero(phi, torch.amax(phi, per_sample(rank), True)), [1])
