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
    """L x for the map of ``site`` with ``weight``; no bias."""
    return LINEAR_MAPS[site.node.target].apply(site, x, weight)


def adjoint(site: Site, s: Value, weight: Value) -> Value:
    """Lᵀ s for the map of ``site`` with ``weight``."""
    return LINEAR_MAPS[site.node.target].adjoint(site, s, weight)


def _convolve(site: Site, x: Value, weight: Value) -> Value:
    _, _, _, stride, padding, dilation, groups = site.args
    return aten.conv2d.default(x, weight, None, stride, padding, dilation, groups)


def _convolve_adjoint(site: Site, s: Value, weight: Value) -> Value:
    x, _, _, stride, padding, dilation, groups = site.args
    geometry = (stride, padding, dilation, False, [0] * len(stride), groups)
    only_input = [True, False, False]
    return aten.convolution_backward.default(s, x, weight, None, *geometry, only_input)[0]


def _multiply(site: Site, x: Value, weight: Value) -> Value:
    return aten.linear.default(x, weight)


def _multiply_adjoint(site: Site, s: Value, weight: Value) -> Value:
    return torch.matmul(s, weight)


LINEAR_MAPS: dict[Callable[..., Any], LinearMap] = {
    aten.conv2d.default: LinearMap(_convolve, _convolve_adjoint),
    aten.linear.default: LinearMap(_multiply, _multiply_adjoint),
}
