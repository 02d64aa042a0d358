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


def taps(site: Site) -> Value:
    """1 for every entry of the layer's weight, and 0 for zeros around its kernel that stand for padding."""
    around = site.facts.kernel_padding
    if not around:
        return torch.ones_like(site.weight)
    outer, inner = list(site.node.args[1].meta["type"].shape[:2]), site.node.args[1].meta["type"].shape[2:]
    inner = [size - before - after for size, (before, after) in zip(inner, around, strict=True)]
    ones = aten.new_ones.default(site.weight, [*outer, *inner])
    return aten.constant_pad_nd.default(ones, [width for pair in reversed(around) for width in pair], 0)


def apply(site: Site, x: Value, weight: Value) -> Value:
    """L x for the map of ``site`` with ``weight``; no bias. ``x`` is a forward value."""
    return LINEAR_MAPS[site.node.target].apply(site, x, weight)


def adjoint(site: Site, s: Value, weight: Value) -> Value:
    """Lᵀ s for the map of ``site`` with ``weight``. ``s`` belongs to targets: (K, N, ...)."""
    return LINEAR_MAPS[site.node.target].adjoint(site, s, weight)


def apply_by_sign(site: Site, ahead: Value, behind: Value) -> Value:
    """Ax⁺ + Bx⁻ for the maps A and B with weights ``ahead`` and ``behind``, and the input's parts of either sign."""
    one, *other = (apply(site, x, weight) for x, weight in _by_sign(site, ahead, behind))
    return one + other[0] if other else one


def adjoint_by_sign(site: Site, s: Value, ahead: Value, behind: Value) -> Value:
    """x⁺ ⊙ Aᵀs + x⁻ ⊙ Bᵀs: what each part of the input gets of ``s``, which belongs to targets."""
    one, *other = (x * adjoint(site, s, weight) for x, weight in _by_sign(site, ahead, behind))
    return one + other[0] if other else one


def _by_sign(site: Site, ahead: Value, behind: Value) -> list[tuple[Value, Value]]:
    """x⁺ and the weight that it meets; and x⁻ with its own, unless it is 0 everywhere."""
    if site.facts.nonnegative_input:
        return [(site.x, ahead)]
    return [(torch.clamp_min(site.x, 0), ahead), (torch.clamp_max(site.x, 0), behind)]


def _convolution(convolve: torch._ops.OpOverload, transposed: torch._ops.OpOverload) -> LinearMap:
    def apply(site: Site, x: Value, weight: Value) -> Value:
        return convolve(x, weight, None, *site.args[3:])

    def adjoint(site: Site, s: Value, weight: Value) -> Value:
        """The transposed convolution, with as much output padding as the strides left unread at the border."""
        _, _, _, stride, padding, dilation, groups = site.args
        sizes = zip(*_sizes(site), stride, padding, dilation, strict=True)
        geometry = (None, stride, padding, [unread(*dim) for dim in sizes], groups, dilation)
        return site.per_target(lambda flat: transposed(flat, weight, *geometry), s)

    return LinearMap(apply, adjoint)


def unread(x: int, y: int, k: int, t: int, p: int, d: int) -> int:
    """How many entries at the end of a dimension a convolution's strides leave unread.

    Args:
        x, y, k: sizes of input, output and kernel.
        t, p, d: stride, padding and dilation.
    """
    return x + 2 * p - (d * (k - 1) + 1 + t * (y - 1))


def _transposed_convolution(transposed: torch._ops.OpOverload, convolve: torch._ops.OpOverload) -> LinearMap:
    def apply(site: Site, x: Value, weight: Value) -> Value:
        return transposed(x, weight, None, *site.args[3:])

    def adjoint(site: Site, s: Value, weight: Value) -> Value:
        """The convolution; output padding as wide as a stride would give it more outputs than there were inputs."""
        _, _, _, stride, padding, _, groups, dilation = site.args
        sizes = zip(*_sizes(site), stride, padding, dilation, strict=True)
        more = [(y + 2 * p - d * (k - 1) - 1) // t + 1 - x for x, y, k, t, p, d in sizes]

        def convolved(flat: Value) -> Value:
            result = convolve(flat, weight, None, stride, padding, dilation, groups)
            crop = [width for extra in reversed(more) for width in (0, -extra)]
            return aten.constant_pad_nd.default(result, crop, 0) if any(more) else result

        return site.per_target(convolved, s)

    return LinearMap(apply, adjoint)


def _sizes(site: Site) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Of a convolution's input, output and kernel, per spatial dimension."""
    return site.x_type.shape[2:], site.y_type.shape[2:], site.node.args[1].meta["type"].shape[2:]


LINEAR_LAYERS: dict[Callable[..., Any], LinearMap] = {
    aten.conv1d.default: _convolution(aten.conv1d.default, aten.conv_transpose1d.default),
    aten.conv2d.default: _convolution(aten.conv2d.default, aten.conv_transpose2d.input),
    aten.conv3d.default: _convolution(aten.conv3d.default, aten.conv_transpose3d.input),
    aten.conv_transpose1d.default: _transposed_convolution(aten.conv_transpose1d.default, aten.conv1d.default),
    aten.conv_transpose2d.input: _transposed_convolution(aten.conv_transpose2d.input, aten.conv2d.default),
    aten.conv_transpose3d.input: _transposed_convolution(aten.conv_transpose3d.input, aten.conv3d.default),
    aten.linear.default: LinearMap(
        lambda site, x, weight: aten.linear.default(x, weight), lambda site, s, weight: torch.matmul(s, weight)
    ),
}
LINEAR_MAPS: dict[Callable[..., Any], LinearMap] = {
    **LINEAR_LAYERS,
    # A product with a matrix that is constant, or taken for constant.
    aten.matmul.default: LinearMap(
        lambda site, x, weight: torch.matmul(x, weight),
        lambda site, s, weight: torch.matmul(s, torch.transpose(weight, -2, -1)),
    ),
}
