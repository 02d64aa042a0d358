"""The rules of Attribution Guided Factorization (Gur, Ali and Wolf, AAAI 2021); equation numbers are the paper's."""

from __future__ import annotations

import math

import torch

from agf_fx.options import AGFOptions
from agf_fx.rules.factorisation import guided_factorisation
from agf_fx.rules.gradients import vjp
from agf_fx.rules.linear_maps import adjoint, apply
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import (
    Value,
    channel_mean,
    channel_sum,
    delta_shift,
    div,
    divide_or_zero,
    expand,
    max_normalise,
    nonzero,
    per_sample,
    split_targets,
)
from agf_fx.rules.propagation import absolute_influence, ones_like_input
from agf_fx.rules.rule import Messages, Promise, Rule, rule
from agf_fx.rules.site import GRADIENT, Site
from agf_fx.rules.targets import each_target, indicator

aten = torch.ops.aten

LEAST_MAXIMUM = 1e-3  # of the largest size of relevance, that the largest relevance has to have to scale a map


@formula("∂ŷ_t/∂y", "ŷ = softmax(y_t · exp(-½((y - y_t)/σ)²)), σ = max|y - y_t|  (eq. 8)")
def softened_target_gradient(y: Value, target: Value) -> Value:
    """∂ŷ_t/∂y, differentiated through y_t and σ as well.

    Args:
        y: logits (N, classes).
        target: classes (K, N), int64.

    Returns:
        (K, N, classes). All zero where all logits are equal.
    """
    index = torch.unsqueeze(target, 2)
    logits = each_target(y, target)
    is_target = indicator(logits, index)
    y_t = torch.gather(logits, 2, index)
    d = y - y_t
    sigma = torch.amax(torch.abs(d), [2], True)
    scale = torch.masked_fill(sigma, sigma == 0, 1.0)
    u = d / scale
    e = torch.exp(u * u * -0.5)
    p = torch.softmax(y_t * e, 2)
    others = p * (-is_target + 1.0)
    # ∂ŷ_t/∂s for s = y_t e: p_t ([i = t] - p_i), with 1 - p_t as the sum of the others, which keeps its digits.
    q = torch.gather(p, 2, index) * (is_target * torch.sum(others, [2], True) - others)
    v = -(q * y_t * e * u)  # ∂ŷ_t/∂u
    widest = torch.abs(d) == sigma
    ties = torch.sum(widest, [2], True)
    through_sigma = torch.sum(v * u, [2], True) * widest * torch.sign(d) / ties
    D = (v - through_sigma) / scale  # ∂ŷ_t/∂d
    return D + is_target * (torch.sum(q * e, [2], True) - torch.sum(D, [2], True))


def guided_convolution(options: AGFOptions) -> Rule:
    """The rule of a convolution with its residual terms: Φ_in = Δ(C, r) (eqs. 9-14)."""

    def guided(site: Site, phi: Value) -> Messages:
        g, (g_x, *_) = site.sent[GRADIENT]
        C = absolute_influence(site, phi)
        r = residual(site, phi, g, g_x, C, options)
        return (C,) if r is None else (_shift(C, r, site.x_type.rank),)

    return Rule(
        guided,
        "guided_convolution",
        "Φ",
        "Φ_in = Δ(C, r)  (eqs. 4 and 14)",
        source="Gur, Ali and Wolf 2021, eqs. 9 to 14",
        promise=Promise.SHIFTS,
        divides=True,
        faithful=True,
    )


@formula("r", "r = (A + F_∇x + (F_x + M) / (1 + exp(-C))) ⊙ [C ≠ 0]  (eq. 13)")
def residual(site: Site, phi: Value, g: Value, g_x: Value, C: Value, options: AGFOptions) -> Value | None:
    """r, or None when every part is switched off."""
    x, rank, partition = site.x, site.x_type.rank, channel_mean(C, site.x_type.rank)
    # The published code takes the gradient of F_∇x, and of Grad-CAM, from the outputs with relevance only.
    seen = vjp(site, g * nonzero(phi))[0]
    numerator: list[Value] = []
    if options.numerator == "gradcam":
        numerator.append(grad_cam(x, seen, rank))
    else:
        if options.factorise_input:
            numerator.append(factorised_input(site, partition, options.dialect))
        if options.input_gradient:
            numerator.append(input_gradient(x, g_x, rank))
    parts = [sum(numerator[1:], numerator[0])] if numerator else []
    if parts and options.regulariser:
        parts = [parts[0] * torch.sigmoid(C)]
    if options.factorise_gradient:
        parts.append(factorised_gradient(site, seen, partition, options.dialect))
    if options.input_agnostic:
        parts.append(input_agnostic_influence(site, phi))
    return sum(parts[1:], parts[0]) * nonzero(C) if parts else None


@formula("A", "A = |L|ᵀ(Φ / |L|1)  (eq. 10)")
def input_agnostic_influence(site: Site, phi: Value) -> Value:
    """A: what C would be for an input of ones. |L|1 depends on the weights alone; its batch size is 1."""
    weight = torch.abs(site.weight)
    return adjoint(site, div(phi, apply(site, ones_like_input(site), weight)), weight)


@formula("F_x", "F_x = F(N_max(x), C)⁺  (eq. 11)")
def factorised_input(site: Site, partition: Value, dialect: str) -> Value:
    """F_x, shape (K, N, 1, *spatial): one H for all the targets of an image."""
    guides = torch.flatten(torch.transpose(_positions(site, partition), 0, 1), 1, 2)  # (N, K, P)
    F = torch.relu(guided_factorisation(site.x, guides, site.x_type.rank, dialect))
    return _map(site, torch.transpose(torch.unsqueeze(F, 2), 0, 1))


@formula("F_∇x", "F_∇x = F(N_max(∇x), C)⁺  (eq. 11)")
def factorised_gradient(site: Site, g: Value, partition: Value, dialect: str) -> Value:
    """F_∇x, shape (K, N, 1, *spatial)."""
    return _map(site, torch.relu(guided_factorisation(g, _positions(site, partition), site.x_type.rank, dialect)))


def _positions(site: Site, maps: Value) -> Value:
    """(K, N, 1, *spatial) -> (K, N, 1, P)."""
    return torch.flatten(maps, 2 - site.x_type.rank, -1)


def _map(site: Site, values: Value) -> Value:
    """(K, N, 1, P) -> (K, N, 1, *spatial)."""
    return split_targets(values, site.targets, [1, *site.x_type.sample_shape[1:]])


@formula("M", "M = N_max(mean_c(x ⊙ ∇x)⁺)  (eq. 12)")
def input_gradient(x: Value, g: Value, rank: int) -> Value:
    """M, shape (K, N, 1, *spatial)."""
    return max_normalise(torch.relu(channel_mean(x * g, rank)), rank)


@formula("Grad-CAM", "mean_c(x ⊙ mean_hw ∇x)⁺  (eq. 6)")
def grad_cam(x: Value, g: Value, rank: int) -> Value:
    """The Grad-CAM term of the last ablation of Tab. 5, shape (K, N, 1, *spatial)."""
    return torch.relu(channel_mean(x * torch.mean(g, per_sample(rank)[1:], True), rank))


@formula("Φ", "Φ_in = Δ(C, r)  (eqs. 4 and 14)")
def _shift(C: Value, r: Value, rank: int) -> Value:
    return delta_shift(C, r, rank)


@rule(
    "Φ",
    "Φ_in = Δ(C, M)  (Alg. 1, l. 7-13)",
    promise=Promise.SHIFTS,
    divides=True,
    faithful=True,
    source="Gur, Ali and Wolf 2021",
)
def flatten_boundary(site: Site, phi: Value) -> Messages:
    """A linear layer behind a flattened feature map: Φ_in = Δ(C, M), M taken in the map's shape (Alg. 1, l. 7-13).

    Of a map with one position, M is the same number wherever C is not 0, and Δ(C, M) = C; computed, the rounding of M
    would swamp a C that is a millionth of it.
    """
    C = absolute_influence(site, phi)
    boundary = site.facts.flatten_boundary
    if math.prod(boundary.shape) == boundary.shape[boundary.channel_dim - 1]:
        return (C,)
    M = flattened_input_gradient(site, site.sent[GRADIENT].handed[0], C)
    return (_shift(C, M, site.x_type.rank),)


@formula("M", "M = N_max(mean_c(x ⊙ ∇x)⁺ ⊙ [C ≠ 0])  (eq. 12)")
def flattened_input_gradient(site: Site, g: Value, C: Value) -> Value:
    """M at a flatten boundary, in the flattened shape."""
    boundary = site.facts.flatten_boundary
    product = split_targets(site.x * g, site.targets, boundary.shape)
    mean = expand(torch.mean(product, [boundary.channel_dim + 1], True), boundary.shape, targets=True)
    M = torch.relu(split_targets(mean, site.targets, site.x_type.sample_shape)) * nonzero(C)
    return max_normalise(M, site.x_type.rank)


@formula("map", "Σ_c Φ / max Φ;  Σ_c Φ / max|Φ|  where max Φ < max|Φ| / 1000")
def normalised_channel_sum(phi: Value, rank: int, channel_dim: int | None) -> Value:
    """The heat map: relevance over its maximum, summed over channels: (K, N, *spatial), signed.

    Where no relevance is positive, or next to none, the maximum is no scale: dividing by it would turn the signs, or
    blow the values up. There the largest size is taken.
    """
    dims = per_sample(rank)
    largest, size = torch.amax(phi, dims, True), torch.amax(torch.abs(phi), dims, True)
    scale = torch.where(largest < size * LEAST_MAXIMUM, size, largest)
    return channel_sum(phi * divide_or_zero(torch.ones_like(scale), scale), rank, channel_dim)
