"""Targets: which classes are explained, and their place among the logits.

Of outputs (N, classes, *positions), as a segmentation network's, a target below the number of classes stands for that
class averaged over all positions, and classes · (p + 1) + c for class c at position p, counted row by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value, div

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


def positions_looked_at(logits: Value, target: Value, shape: Sequence[int]) -> tuple[Value, Value]:
    """Where each target looks; see `position_weights` for the arguments.

    Returns:
        (K, N, 1): 1 for targets that look everywhere; (K, N, P): 1 at the position of those that look at one.
    """
    classes, count = shape[0], math.prod(shape[1:])
    position = torch.transpose(aten.div.Scalar_mode(target, classes, rounding_mode="floor"), 0, 1)  # p + 1, or below 1
    index = torch.unsqueeze(torch.clamp_min(position, 0), 2)
    nowhere = torch.zeros_like(each_target(aten.select.int(torch.flatten(logits, 2, -1), 1, 0), position))
    marked = torch.scatter(aten.constant_pad_nd.default(nowhere, [1, 0], 0), 2, index, 1.0)
    return torch.narrow(marked, 2, 0, 1), torch.narrow(marked, 2, 1, count)


@formula("w", "w_p = 1 at the target's position, or 1/P everywhere")
def position_weights(logits: Value, target: Value, shape: Sequence[int]) -> Value:
    """Where each target looks.

    Args:
        logits: (N, classes, *positions).
        target: (N, K) int64, as at the top of this page.
        shape: (classes, *positions).

    Returns:
        (K, N, P): weights of the P positions, which sum to 1.
    """
    everywhere, here = positions_looked_at(logits, target, shape)
    return here + everywhere / math.prod(shape[1:])


@formula("y", "y_c = Σ_p w_p y_cp")
def weighted_logits(logits: Value, weights: Value) -> Value:
    """(N, classes, *positions) and weights (K, N, P) -> the logits that each target looks at, (K, N, classes)."""
    by_position = torch.transpose(torch.flatten(logits, 2, -1), 1, 2)
    return torch.flatten(torch.matmul(torch.unsqueeze(weights, 2), by_position), 2, 3)


@formula("∂ŷ_t/∂y", "∂ŷ_t/∂y_cp = w_p ∂ŷ_t/∂y_c")
def spread_gradient(gradient: Value, weights: Value, targets: Value, shape: Sequence[int]) -> Value:
    """(K, N, classes) and weights (K, N, P) -> the gradient at all positions, (K, N, classes, *positions)."""
    return torch.reshape(torch.unsqueeze(gradient, 3) * torch.unsqueeze(weights, 2), [targets, -1, *shape])


@formula("Φ", "Φ_cp = Φ_c at the target's position, or Φ_c y_cp / Σ_p y_cp")
def spread_relevance(
    relevance: Value, logits: Value, looks: tuple[Value, Value], targets: Value, shape: Sequence[int]
) -> Value:
    """Relevance of the logits that each target looks at, at all positions: of a mean, by the shares in it.

    Args:
        relevance: (K, N, classes).
        logits: (N, classes, *positions).
        looks: see `positions_looked_at`.
        targets: K.
        shape: (classes, *positions).

    Returns:
        (K, N, classes, *positions).
    """
    everywhere, here = looks
    rows = torch.flatten(logits, 2, -1)
    parts = div(relevance * everywhere, torch.mean(rows, [2])) / math.prod(shape[1:])
    shares = torch.unsqueeze(parts, 3) * rows
    found = shares + torch.unsqueeze(relevance, 3) * torch.unsqueeze(here, 2)
    return torch.reshape(found, [targets, -1, *shape])


def mean_logits(logits: Value) -> Value:
    """(N, classes, *positions) -> (N, classes), the mean over positions, by which classes rank."""
    return torch.mean(torch.flatten(logits, 2, -1), [2])


def class_of(target: Value, classes: int) -> Value:
    """The class of a target that may name a position as well; ranks stay."""
    return torch.where(target < classes, target, aten.remainder.Scalar(target, classes))


def explained_classes(logits: Value, target: Value) -> Value:
    """The classes that targets stand for.

    Args:
        logits: (N, classes, *positions).
        target: (N, K) int64, as at the top of this page.

    Returns:
        (N, K) int64.
    """
    if logits.dim() > 2:
        target, logits = class_of(target, logits.shape[1]), mean_logits(logits)
    return torch.transpose(chosen_classes(logits, target), 0, 1)


def logits_looked_at(logits: Value, target: Value) -> Value:
    """The logits at which each target looks.

    Args:
        logits: (N, classes, *positions).
        target: (N, K) int64, as at the top of this page.

    Returns:
        (K, N, classes).
    """
    if logits.dim() == 2:
        return each_target(logits, torch.transpose(target, 0, 1))
    return weighted_logits(logits, position_weights(logits, target, logits.shape[1:]))
