"""Normalisations: batch norm with stored statistics, norms by statistics of the sample, softmax, Euclidean length."""

from __future__ import annotations

from collections.abc import Callable

import torch

from agf_fx.rules.adjoints.pooling import kept
from agf_fx.rules.numerics import Value, nonzero
from agf_fx.rules.site import Site, Vjp

aten = torch.ops.aten


def _batch_norm(site: Site, g: Value) -> tuple[Value, ...]:
    _, weight, _, _, variance, _, _, eps, _ = site.args
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else weight * scale
    return (g * torch.reshape(scale, [-1, *[1] * (site.x_type.rank - 2)]),)


def _standardised(x: Value, g: Value, dims: list[int], eps: float) -> Value:
    """The gradient through x̂ = (x - mean x) / √(var x + eps) over ``dims``: (g - mean g - x̂ mean(g x̂)) / √(...)."""
    centred = x - torch.mean(x, dims, True)
    scale = torch.rsqrt(torch.mean(centred * centred, dims, True) + eps)
    standardised = centred * scale
    return scale * (g - torch.mean(g, dims, True) - standardised * torch.mean(g * standardised, dims, True))


def _layer_norm(site: Site, g: Value) -> tuple[Value, ...]:
    x, shape, weight, _, eps, _ = site.args
    g = g if weight is None else g * weight
    return (_standardised(x, g, list(range(-len(shape), 0)), eps),)


def _group_norm(site: Site, g: Value) -> tuple[Value, ...]:
    x, groups, weight, _, eps, _ = site.args
    if weight is not None:
        g = g * torch.reshape(weight, [-1, *[1] * (site.x_type.rank - 2)])
    g = torch.reshape(g, [site.targets, -1, groups, site.x_type.sample_size // groups])
    x = torch.reshape(x, [-1, groups, site.x_type.sample_size // groups])
    return (torch.reshape(_standardised(x, g, [-1], eps), [site.targets, *site.x_type.free_batch]),)


def _rms_norm(site: Site, g: Value) -> tuple[Value, ...]:
    """Through x̂ = x / √(mean x² + eps): (g - x̂ mean(g x̂)) / √(...)."""
    x, shape, weight, eps = site.args
    dims = list(range(-len(shape), 0))
    g = g if weight is None else g * weight
    scale = torch.rsqrt(torch.mean(x * x, dims, True) + eps)
    normalised = x * scale
    return (scale * (g - normalised * torch.mean(g * normalised, dims, True)),)


def _softmax(site: Site, g: Value) -> tuple[Value, ...]:
    dim = site.args[1] - site.y_type.rank
    return (site.y * (g - torch.sum(g * site.y, [dim], True)),)


def _log_softmax(site: Site, g: Value) -> tuple[Value, ...]:
    dim = site.args[1] - site.y_type.rank
    return (g - torch.exp(site.y) * torch.sum(g, [dim], True),)


def _length(site: Site, g: Value) -> tuple[Value, ...]:
    """Of the Euclidean length: x / |x|, and 0 at x = 0."""
    dims = site.args[2]
    length = kept(site, site.y, dims, targets=False)
    return (kept(site, g, dims, targets=True) * (site.x / (length + (-nonzero(length) + 1.0))),)


NORMALISATION: dict[Callable[..., object], Vjp] = {
    aten.batch_norm.default: _batch_norm,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.rms_norm.default: _rms_norm,
    aten.softmax.int: _softmax,
    aten.log_softmax.int: _log_softmax,
    aten.linalg_vector_norm.default: _length,
}
