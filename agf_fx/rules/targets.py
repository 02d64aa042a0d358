"""Targets: which classes are explained, and their place among the logits."""

from __future__ import annotations

import torch

from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value

aten = torch.ops.aten


@formula("t", "t = target, or the class of rank r where target = -r")
def chosen_classes(logits: Value, target: Value) -> Value:
    """The classes to explain, targets first.

    Args:
        logits: (N, classes).
        target: (N, K) int64; a class, or -1 for an image's highest-scoring class, -2 for the second, ... Equal logits
            rank by class number.

    Returns:
        (K, N) int64, every entry a class.
    """
    ranked = aten.sort.stable(logits, stable=True, dim=1, descending=True)[1]
    by_rank = torch.gather(ranked, 1, torch.clamp_min(-target - 1, 0))
    return torch.transpose(torch.where(target < 0, by_rank, target), 0, 1)


def each_target(logits: Value, target: Value) -> Value:
    """Logits (N, classes) once for every target of (K, N): (K, N, classes), without copying."""
    return aten.expand.default(logits, [aten.sym_size.int(target, 0), -1, -1])


def indicator(logits: Value, index: Value) -> Value:
    """1 at the index (K, N, 1), 0 elsewhere, shaped like the logits (K, N, classes)."""
    return torch.scatter(torch.zeros_like(logits), 2, index, 1.0)
