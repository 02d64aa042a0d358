"""The arithmetic that the rules share.

A forward value has the shape (N, ...) of the model; a value that belongs to a target as well, such as a gradient or a
relevance, has K targets in front: (K, N, ...), so that the two broadcast. Sums and maxima run over the dimensions of
one sample, counted from the end, which fits both.

Masks are numbers (0 or 1), not booleans: products of floats are vectorised everywhere, and cost a tenth of a
``masked_fill`` on a CPU. ``Value`` is a tensor or an fx.Proxy. Ranks and sizes come from the graph's types, never from
values; ``rank`` counts the batch dimension and not the targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

Value = Any

EPSILON = 1e-9  # the stabiliser of the published code, the same for either sign of the denominator


@dataclass(frozen=True)
class Division:
    """How a rule divides by what may be 0.

    Attributes:
        kind: ``"one-sided"`` adds ε whatever the sign, and has no quotient where the denominator is exactly 0, as the
            published code of AGF does; ``"signed"`` adds ε with the sign of the denominator, 0 counting as positive, as
            LRP-ε does; ``"exact"`` adds nothing and loses nothing, see `settled`.
        epsilon: ε; 0 in exact division.
    """

    kind: str = "one-sided"
    epsilon: float = EPSILON

    @property
    def is_exact(self) -> bool:
        """Whether nothing is added."""
        return self.kind == "exact"

    def __str__(self) -> str:
        return f"{self.epsilon:.0e}".replace("e-0", "e-")


PUBLISHED, EXACT = Division(), Division("exact", 0.0)

_division: ContextVar[Division] = ContextVar("agf_fx_division", default=PUBLISHED)


@contextmanager
def dividing(division: Division) -> Iterator[None]:
    """Let `div` and its likes divide so: a rule does this with its own division while it runs."""
    token = _division.set(division)
    try:
        yield
    finally:
        _division.reset(token)


def per_sample(rank: int) -> list[int]:
    """The dimensions that belong to one sample of a tensor of ``rank``, from the end."""
    return list(range(1 - rank, 0))


def nonzero(a: Value) -> Value:
    """The mask [a ≠ 0], as 0 and 1 in the dtype of ``a``."""
    return torch.abs(torch.sign(a))


def stabilised(b: Value) -> Value:
    """b + ε, and ε where that is exactly 0; b ± ε, the sign that of b; or in exact division b, and 1 where it is 0."""
    division = _division.get()
    if division.is_exact:
        return b + (-nonzero(b) + 1.0)
    if division.kind == "signed":
        return b + (torch.sign(b) + (-nonzero(b) + 1.0)) * division.epsilon
    shifted = b + division.epsilon
    return shifted + (nonzero(shifted) * -division.epsilon + division.epsilon)


def reciprocal(b: Value) -> Value:
    """1 / (b + ε), and 0 where b is exactly 0; with a signed ε 1 / (b ± ε) everywhere."""
    if _division.get().kind == "signed":
        return torch.reciprocal(stabilised(b))
    return nonzero(b) / stabilised(b)


def div(a: Value, b: Value) -> Value:
    """a / (b + ε), as `reciprocal` has it."""
    return a * reciprocal(b)


def share(b: Value) -> Value:
    """b / (b + ε): 1, but for what the stabiliser takes; 0 where b is 0."""
    return b / stabilised(b)


def divides_exactly() -> bool:
    """Whether division is exact here."""
    return _division.get().is_exact


def settled(phi: Value, b: Value, dims: Sequence[int]) -> Value:
    """In exact division: the relevance of entries with b = 0 spread evenly over the others of the same sample.

    A quotient Φ / b has no place for the relevance of an output that none of the inputs made: a bias alone, or a ReLU's
    zero that a batch norm behind it has shifted. The published code drops it, and so does this function if b is 0
    throughout the sample.

    Args:
        phi: relevances (K, N, ...).
        b: what they will be divided by; (N, ...) or (K, N, ...).
        dims: the dimensions of one sample, from the end; none where a sample is one number, which has no others.
    """
    if not divides_exactly() or not dims:
        return phi
    mask = nonzero(b)
    lost = torch.sum(phi * (-mask + 1.0), dims, True)
    return phi * mask + mask * (lost / torch.clamp_min(torch.sum(mask, dims, True), 1))


def divide_or_zero(a: Value, b: Value) -> Value:
    """a / b exactly, and 0 where b is 0. For small tensors: it masks with booleans."""
    none = b == 0
    return torch.masked_fill(a / torch.masked_fill(b, none, 1.0), none, 0.0)


def max_normalise(a: Value, rank: int, scale: float = 1.0) -> Value:
    """N_max(a), each sample divided by its largest entry (paper, eq. 7), times ``scale``.

    Where all entries are negative, by the size of that entry: signs stay as they are.
    """
    return a * (reciprocal(torch.abs(torch.amax(a, per_sample(rank), True))) * scale)


def channel_mean(a: Value, rank: int) -> Value:
    """Mean over channels, kept as a dimension of size 1."""
    return torch.mean(a, [1 - rank], True)


def channel_sum(a: Value, rank: int, channel_dim: int | None) -> Value:
    """Sum over the channels of images of ``rank``, in dimension ``channel_dim``; ``a`` itself where there are none."""
    return a if channel_dim is None else torch.sum(a, [channel_dim - rank])


def expand(a: Value, sample_shape: Sequence[int], targets: bool = False) -> Value:
    """Broadcast to (N, *sample_shape) without copying, or with ``targets`` to (K, N, *sample_shape)."""
    return torch.ops.aten.expand.default(a, [-1] * (1 + targets) + [*sample_shape])


def merge_targets(a: Value) -> Value:
    """(K, N, ...) -> (K·N, ...): targets as further samples, for operations that know one batch dimension."""
    return torch.flatten(a, 0, 1)


def split_targets(a: Value, targets: Value, sample_shape: Sequence[int]) -> Value:
    """(K·N, ...) -> (K, N, *sample_shape), undoing `merge_targets`."""
    return torch.reshape(a, [targets, -1, *sample_shape])


def delta_shift(C: Value, r: Value, rank: int) -> Value:
    """Δ(C, r) = C + r - Σr / #{C ≠ 0} on the entries where C ≠ 0 (paper, Def. 2).

    Adds a residual without changing the sum, provided that r is 0 where C is. If C is all zero, so is the result.
    """
    dims = per_sample(rank)
    mask = nonzero(C)
    count = torch.clamp_min(torch.sum(mask, dims, True), 1)
    return C + (r - mask * (torch.sum(r, dims, True) / count))
