"""The arithmetic that the rules share. Sums and maxima run over all dimensions but the batch.

``Value`` is a tensor or an fx.Proxy. Ranks and sizes come from the graph's types, never from values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

Value = Any

EPSILON = 1e-9  # the stabiliser of the published code, the same for either sign of the denominator


def per_sample(rank: int) -> list[int]:
    """The dimensions of a tensor of ``rank`` that belong to one sample."""
    return list(range(1, rank))


def div(a: Value, b: Value) -> Value:
    """a / (b + 1e-9), and 0 where b is exactly 0."""
    shifted = b + EPSILON
    return torch.masked_fill(a / torch.masked_fill(shifted, shifted == 0, EPSILON), b == 0, 0.0)


def divide_or_zero(a: Value, b: Value) -> Value:
    """a / b exactly, and 0 where b is 0."""
    none = b == 0
    return torch.masked_fill(a / torch.masked_fill(b, none, 1.0), none, 0.0)


def max_normalise(a: Value, rank: int) -> Value:
    """N_max(a): each sample divided by its largest entry (paper, eq. 7)."""
    return div(a, torch.amax(a, per_sample(rank), True))


def channel_mean(a: Value) -> Value:
    """Mean over channels, kept as a dimension of size 1."""
    return torch.mean(a, [1], True)


def expand(a: Value, sample_shape: Sequence[int]) -> Value:
    """Broadcast to (N, *sample_shape) without copying."""
    return torch.ops.aten.expand.default(a, [-1, *sample_shape])


def nonzero(a: Value) -> Value:
    """The boolean mask [a ≠ 0]."""
    return a != 0


def delta_shift(C: Value, r: Value, rank: int) -> Value:
    """Δ(C, r) = C + r - Σr / #{C ≠ 0} on the entries where C ≠ 0 (paper, Def. 2).

    Adds a residual without changing the sum, provided that r is 0 where C is. If C is all zero, so is the result.
    """
    dims = per_sample(rank)
    mask = nonzero(C)
    count = torch.clamp_min(torch.sum(mask, dims, True), 1)
    return C + r - mask * (torch.sum(r, dims, True) / count)
