"""Convolution and linear layers as linear maps: L with any weight in place of the layer's, and its adjoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from agf_fx.rules.numerics import Value
from agf_fx.rules.site import Site

aten = torch.ops.aten


@dataclass(frozen=True)
class LinearMap:
    """How an operation applies a weight, without bias, and how it applies the adjoint."""

    apply: Callable[[Site, Value, Value], Value]
    adjoint: Callable[[Site, Value, Value], Value]


def apply(site: Site, x: Value, weight: Value) -> Value:
    """L x for the map of ``site`` with ``weight``; no bias. ``x`` is a forward value."""
    return LINEAR_MAPS[site.node.target].apply(site, x, weight)


def adjoint(site: Site, s: Value, weight: Value) -> Value:
    """Lᵀ s for the map of ``site`` with ``weight``. ``s`` belongs to targets: (K, N, ...)."""
    return LINEAR_MAPS[site.node.target].adjoint(site, s, weight)


def _convolve(site: Site, x: Value, weight: Value) -> Value:
    _, _, _, stride, padding, dilation, groups = site.args
    return aten.conv2d.default(x, weight, None, stride, padding, dilation, groups)


def _convolve_adjoint(site: Site, s: Value, weight: Value) -> Value:
    """The transposed convolution, with as much output padding as the strides left unread at the border."""
    _, _, _, stride, padding, dilation, groups = site.args
    kernel = site.node.args[1].meta["type"].shape[2:]
    sizes = zip(site.x_type.shape[2:], site.y_type.shape[2:], kernel, stride, padding, dilation, strict=True)
    unread = [x + 2 * p - (d * (k - 1) + 1 + t * (y - 1)) for x, y, k, t, p, d in sizes]
    geometry = (None, stride, padding, unread, groups, dilation)
    return site.per_target(lambda flat: aten.conv_transpose2d.input(flat, weight, *geometry), s)


def _multiply(site: Site, x: Value, weight: Value) -> Value:
    return aten.linear.default(x, weight)


def _multiply_adjoint(site: Site, s: Value, weight: Value) -> Value:
    return torch.matmul(s, weight)


LINEAR_MAPS: dict[Callable[..., Any], LinearMap] = {
    aten.conv2d.default: LinearMap(_convolve, _convolve_adjoint),
    aten.linear.default: LinearMap(_multiply, _multiply_adjoint),
}
