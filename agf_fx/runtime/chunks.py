"""Splitting N images with K targets each into pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agf_fx.errors import MemoryLimitError
from agf_fx.notices import warn

Run = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


class SmallerChunkWarning(UserWarning):
    """Memory ran out, and the rest is explained in smaller pieces."""


@dataclass
class Limits:
    """What may be explained at once.

    Attributes:
        pairs: the most (image, target) pairs; lowered where memory runs out.
        memory: the most bytes, by ``estimate``.
        estimate: bytes that n images with k targets each take.
        preferred: pairs above which images are better explained apart; the targets of one image stay together.
    """

    pairs: int | None
    memory: int | None
    estimate: Callable[[int, int], int]
    preferred: int | None = None

    def fit(self, images: int, targets: int) -> bool:
        """Whether this many images with this many targets each may be explained at once."""
        few = self.pairs is None or images * targets <= self.pairs
        few &= self.preferred is None or images == 1 or images * targets <= self.preferred
        return few and (self.memory is None or self.estimate(images, targets) <= self.memory)

    def largest_piece(self, images: int, targets: int) -> tuple[int, int]:
        """The most images with all targets, or else one image with the most targets, that may be explained at once.

        Raises:
            MemoryLimitError: not even one pair fits.
        """
        if self.fit(1, targets):
            return _largest(images, lambda count: self.fit(count, targets)), targets
        if self.fit(1, 1):
            return 1, _largest(targets, lambda count: self.fit(1, count))
        raise MemoryLimitError(
            f"explaining one image for one target takes {self.estimate(1, 1):,} bytes, more than "
            f"memory_limit={self.memory:,}; raise the limit, or explain smaller images."
        )


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest count in 1 … most that fits; 1 does."""
    fitting, failing = 1, most + 1
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        fitting, failing = (middle, failing) if fits(middle) else (fitting, middle)
    return fitting


def run_in_chunks(
    run: Run, images: Tensor, target: Tensor, limits: Limits, per_target: Sequence[bool] = (True, False)
) -> tuple[Tensor, ...]:
    """Explain a request in pieces within ``limits``; pieces already explained stay when a later one is too large.

    Args:
        run: explains one piece: (n, ...) images and (n, k) targets -> maps (n, k, *spatial), logits (n, classes), and
            whatever else it says of them.
        images: (N, ...).
        target: (N, K).
        limits: what may be explained at once; ``limits.pairs`` is lowered when memory runs out.
        per_target: which of the results are (n, k, ...); the others are (n, ...).

    Returns:
        The results for all: maps (N, K, *spatial), logits (N, classes), ...

    Raises:
        MemoryLimitError: one image with one target is too much.
    """
    count, targets = target.shape
    if limits.fit(count, targets):
        try:
            return run(images, target)
        except RuntimeError as error:
            _halve(limits, count * targets, error)
    whole: list[Tensor] = []
    pending = [(0, count, 0, targets)]
    while pending:
        top, bottom, left, right = pending.pop()
        rows, columns = limits.largest_piece(bottom - top, right - left)
        if rows < bottom - top:
            pending += [(top + rows, bottom, left, right), (top, top + rows, left, right)]
            continue
        if columns < right - left:
            pending += [(top, bottom, left + columns, right), (top, bottom, left, left + columns)]
            continue
        try:
            found = run(images[top:bottom], target[top:bottom, left:right])
        except RuntimeError as error:
            _halve(limits, rows * columns, error)
            pending.append((top, bottom, left, right))
            continue
        if not whole:
            sizes = (
                [count, targets, *part.shape[2:]] if each else [count, *part.shape[1:]]
                for part, each in zip(found, per_target, strict=True)
            )
            whole = [part.new_empty(size) for part, size in zip(found, sizes, strict=True)]
        for values, part, each in zip(whole, found, per_target, strict=True):
            values[(slice(top, bottom), slice(left, right)) if each else slice(top, bottom)] = part
    return tuple(whole)


def _halve(limits: Limits, pairs: int, error: RuntimeError) -> None:
    """Lower the limit after an out-of-memory error; raise any other."""
    if not out_of_memory(error):
        raise error
    if pairs == 1:
        raise MemoryLimitError(
            "memory ran out on one image with one target; free memory, or explain smaller images."
        ) from error
    limits.pairs = pairs // 2
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warn(
        f"memory ran out on {pairs} image-target pairs at once; going on with {limits.pairs}. "
        f"CompileOptions(max_batch={limits.pairs}) avoids the attempt.",
        SmallerChunkWarning,
    )


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed: CUDA has a type for it, the CPU allocator a message."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
