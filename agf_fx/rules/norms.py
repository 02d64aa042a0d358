"""Normalisations by statistics of the sample, whose scale is taken for a constant."""

from __future__ import annotations

from dataclasses import replace

import torch

from agf_fx.rules.lrp import EPSILON, signed
from agf_fx.rules.numerics import Value, div
from agf_fx.rules.rule import Messages, Promise, Rule, rule
from agf_fx.rules.site import Site

aten = torch.ops.aten

NORMS = (aten.layer_norm.default, aten.group_norm.default, aten.rms_norm.default)
"""The operations that `constant_scale` is for."""


def constant_scale(epsilon: float = EPSILON, *, bias: bool = True) -> Rule:
    """Layer, group and RMS norms with 1 / σ for a constant: Φ_in = x ⊙ Jᵀ(Φ / (y ± ε)), y = γ (x - μ) / σ + β.

    Achtibat et al. (2024) hand relevance through x / σ unchanged, and treat what is affine, the mean, γ and
    β, like a linear layer; one division serves both. RMS norms have neither mean nor β, and hand all on unchanged.

    Args:
        epsilon: ε.
        bias: whether β takes its part of the relevance.
    """

    @rule(
        "Φ",
        "Φ_in = x ⊙ Jᵀ(Φ / (y ± ε)), J = γ (I - 1/n) / σ, σ constant",
        promise=Promise.SAVE_BIASES if bias else Promise.CONSERVES,
        divides=True,
        source="Achtibat et al. 2024",
    )
    def constant_scale_(site: Site, phi: Value) -> Messages:
        y, own = site.y, _shift(site)
        if not bias and own is not None:
            y = y - own
        return (site.x * _adjoint(site, div(site.settled(phi, y), y)),)

    made = replace(constant_scale_, name="constant_scale", parameters=(("ε", epsilon),))
    return made.divided(signed(epsilon))


def _adjoint(site: Site, s: Value) -> Value:
    """Jᵀs, (K, N, ...)."""
    if site.node.target is aten.rms_norm.default:
        x, shape, weight, eps = site.args
        dims = list(range(-len(shape), 0))
        s = s if weight is None else s * weight
        return s * torch.rsqrt(torch.mean(x * x, dims, True) + eps)
    if site.node.target is aten.layer_norm.default:
        x, shape, weight, _, eps, _ = site.args
        s = s if weight is None else s * weight
        return _centred(x, s, list(range(-len(shape), 0)), eps)
    x, groups, weight, _, eps, _ = site.args
    s = s if weight is None else s * _per_channel(site, weight)
    size = site.x_type.sample_size // groups
    s = torch.reshape(s, [site.targets, -1, groups, size])
    found = _centred(torch.reshape(x, [-1, groups, size]), s, [-1], eps)
    return torch.reshape(found, [site.targets, *site.x_type.free_batch])


def _centred(x: Value, s: Value, dims: list[int], eps: float) -> Value:
    """(s - mean s) / σ, which is what the adjoint of (x - mean x) / σ makes of s."""
    centred = x - torch.mean(x, dims, True)
    s = s * torch.rsqrt(torch.mean(centred * centred, dims, True) + eps)
    return s - torch.mean(s, dims, True)


def _shift(site: Site) -> Value | None:
    """β in a shape that adds to the output; None where there is none."""
    if site.node.target is aten.rms_norm.default or site.args[3] is None:
        return None
    return _per_channel(site, site.args[3]) if site.node.target is aten.group_norm.default else site.args[3]


def _per_channel(site: Site, value: Value) -> Value:
    return torch.reshape(value, [-1, *[1] * (site.x_type.rank - 2)])
