"""Contributions of positions to the gradient of weights that are shared between them, and their size.

A convolution reads x_u around the position u, and has the gradient g_u at its output there: u contributes the outer
product of the two, in which the groups of channels of a grouped convolution do not meet. A scaling of each channel is a
1×1 convolution with as many groups as channels, and a bias one that reads ones. Sums, norms and maxima of an outer
product are those of its factors, so that none is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value, merge_targets, split_targets

aten = torch.ops.aten


class Window(NamedTuple):
    """What a convolution reads around each position; by dimension.

    Attributes:
        kernel, stride, dilation: as of a convolution.
        padding: zeros before and after what it reads; entries left out where it is below 0.
    """

    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[tuple[int, int]]
    dilation: Sequence[int]


class Contribution(NamedTuple):
    """What phase 1 extracts: at each position the outer products, within groups, of what is read with the gradient.

    Attributes:
        read: (N, C, *sizes) that the weights are applied to; None for ones.
        gradient: (K, N, D, *outputs).
        groups: how many groups of channels do not meet.
        window: what is read around a position; None for the position alone.
        shape: (C, *sizes).
        outputs: (D, *outputs).
        targets: K.
    """

    read: Value | None
    gradient: Value
    groups: int
    window: Window | None
    shape: tuple[int, ...]
    outputs: tuple[int, ...]
    targets: Value


@formula("m_u", "Σ_ij x_i g_j")
def by_sum(part: Contribution) -> Value:
    """The sum over the entries of the contribution."""
    return _over_groups(_summed(part, lambda x: x) * _of_gradient(part, torch.sum), torch.sum)


@formula("m_u", "‖x_u gᵀ_u‖")
def by_norm(part: Contribution) -> Value:
    """The L2 norm of the contribution: of an outer product that of one factor times that of the other."""
    squares = _summed(part, lambda x: x * x) * _of_gradient(part, lambda g, *dim: torch.sum(g * g, *dim))
    return aten.sqrt.default(_over_groups(squares, torch.sum))


@formula("m_u", "‖max(x_u gᵀ_u, 0)‖")
def by_positive_norm(part: Contribution) -> Value:
    """The L2 norm of the positive entries: of those of two positive factors, and of two negative ones."""
    squares = 0
    for sign in (1.0, -1.0):

        def one_sided(value: Value, sign: float = sign) -> Value:
            part_of_sign = torch.clamp_min(value * sign, 0)
            return part_of_sign * part_of_sign

        total = _of_gradient(part, lambda g, *dim, square=one_sided: torch.sum(square(g), *dim))
        if part.read is not None or sign > 0:
            squares = _summed(part, one_sided) * total + squares
    return aten.sqrt.default(_over_groups(squares, torch.sum))


@formula("m_u", "max_ij x_i g_j")
def by_max(part: Contribution) -> Value:
    """The largest entry: a product of extremes."""
    gradients = [_of_gradient(part, torch.amax), _of_gradient(part, torch.amin)]
    found = [read * gradient for read in _extremes(part) for gradient in gradients]
    largest = found[0]
    for other in found[1:]:
        largest = aten.maximum.default(largest, other)
    return _over_groups(largest, torch.amax)


AGGREGATED: dict[str, Callable[[Contribution], Value]] = {
    "sum": by_sum,
    "norm": by_norm,
    "positive-norm": by_positive_norm,
    "max": by_max,
}


def _summed(part: Contribution, of: Callable[[Value], Value]) -> Value:
    """Σ over a group's channels and what is read around each position, of a function of each entry."""
    if part.read is None:
        return 1.0
    grouped = _reduced(of(part.read), part, torch.sum)
    if part.window is None:
        return grouped
    rows = torch.reshape(grouped, [-1, 1, *part.shape[1:]])
    ones = aten.new_ones.default(rows, [1, 1, *part.window.kernel])
    kernel, stride, padding, dilation = part.window
    sides = [before for before, _ in padding]
    if sides != [after for _, after in padding] or min(sides) < 0:
        rows, sides = _padded(rows, padding), [0] * len(sides)
    convolve = getattr(aten, f"conv{len(kernel)}d").default
    return torch.reshape(convolve(rows, ones, None, stride, sides, dilation, 1), _grouped_outputs(part))


def _padded(rows: Value, padding: Sequence[tuple[int, int]]) -> Value:
    """With zeros around each row, and without the entries where padding is below 0."""
    return aten.constant_pad_nd.default(rows, [width for pair in reversed(padding) for width in pair], 0)


def _extremes(part: Contribution) -> list[Value]:
    """The largest and the least of what is read for each position in each group, zeros of the padding included."""
    if part.read is None:
        return [1.0]
    largest, least = _reduced(part.read, part, torch.amax), _reduced(part.read, part, torch.amin)
    return [largest, least] if part.window is None else [_pooled(part, largest), -_pooled(part, -least)]


def _pooled(part: Contribution, values: Value) -> Value:
    """The largest of what is read around each position."""
    kernel, stride, padding, dilation = map(list, part.window)
    rows = torch.reshape(values, [-1, 1, *part.shape[1:]])
    rows = _padded(rows, padding) if any(map(any, padding)) else rows
    if len(kernel) == 1:  # PyTorch has no exportable maximum in one dimension
        flat = aten.max_pool2d_with_indices.default(
            torch.unsqueeze(rows, 2), [1, *kernel], [1, *stride], [0, 0], [1, *dilation]
        )
        return torch.reshape(flat[0], _grouped_outputs(part))
    pool = getattr(aten, f"max_pool{len(kernel)}d_with_indices").default
    return torch.reshape(pool(rows, kernel, stride, [0] * len(kernel), dilation)[0], _grouped_outputs(part))


def _grouped_outputs(part: Contribution) -> list[int]:
    return [-1, part.groups, *part.outputs[1:]]


def _reduced(values: Value, part: Contribution, reduce: Callable[..., Value]) -> Value:
    """(N, C, *sizes) -> (N, groups, *sizes)."""
    if part.groups == part.shape[0]:
        return values
    grouped = torch.reshape(values, [-1, part.groups, part.shape[0] // part.groups, *part.shape[1:]])
    return reduce(grouped, [2])


def _of_gradient(part: Contribution, reduce: Callable[..., Value]) -> Value:
    """(K, N, D, *outputs) -> (K, N, groups, *outputs)."""
    channels, rest = part.outputs[0], part.outputs[1:]
    if part.groups == channels:
        return reduce(torch.unsqueeze(part.gradient, 3), [3])
    if part.groups == 1:
        return reduce(part.gradient, [2], True)
    shape = [-1, part.groups, channels // part.groups, *rest]
    grouped = reduce(torch.reshape(merge_targets(part.gradient), shape), [2])
    return split_targets(grouped, part.targets, [part.groups, *rest])


def _over_groups(values: Value, reduce: Callable[..., Value]) -> Value:
    """(K, N, groups, *outputs) -> (K, N, *outputs)."""
    return reduce(values, [2])
