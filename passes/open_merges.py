"""Sums that hand on their relevance by the sizes of their terms, because their own size does not bound it."""

from __future__ import annotations

import math

import torch
from torch import fx

from agf_fx.ir.activations import passes_through
from agf_fx.ir.facts import facts, mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import SIGNAL_FREE, Family, family_of, is_parametrised

aten = torch.ops.aten


def mark_open_merges(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark ``open_merge`` on sums of two signals whose relevance is not bounded by their size.

    The published code divides a sum's relevance by the sum. Two things keep the quotient bounded: a ReLU behind the
    sum, which leaves no relevance where the sum is not positive; and readers whose relevance shrinks with what they
    read, as x ⊙ fᵀ(…) does. So a sum is open where

    * something else than a ReLU, or another such sum, reads it: a normalisation, another activation, the next block.
      Data movement and numbers as factors may stand before the ReLU; and a reader that takes the sum for a gate, or
      compares it, hands back no relevance;
    * a layer reads it, through the ReLU or a max-pool, that adds residuals wherever there is relevance, however
      small its input: a convolution that is not flat (the first of the next basic block), a linear layer at a flatten
      boundary, or an input layer.
    """
    closed: set[fx.Node] = set()
    residual: set[fx.Node] = set()  # nodes that hand back relevance out of proportion to what they read
    carrying: set[fx.Node] = set()  # nodes that have relevance
    for node in reversed(canonical.calls):
        if not node.meta["depends_on_images"]:
            continue
        takers = [reader for reader in node.users if reader.target not in SIGNAL_FREE]
        readers = [reader for reader in takers if facts(reader).gate != node.name]
        if facts(node).head or any(reader in carrying for reader in readers):
            carrying.add(node)
        beyond = any(reader in residual for reader in readers)
        if _adds_residuals(node) if is_parametrised(node) else (beyond and _goes_by_entry(node)):
            residual.update({node} & carrying)
        merges = bool(facts(node).residual_merge) and not facts(node).gate
        moves = family_of(node) is Family.DATA_MOVEMENT or _scales(node)
        rectified = node.target is aten.relu.default or ((merges or moves) and all(r in closed for r in readers))
        if rectified:
            closed.add(node)
        if merges and (beyond or not rectified):
            mark(node, open_merge=True)
    return canonical


def _adds_residuals(layer: fx.Node) -> bool:
    """Whether a convolution or linear layer has residual terms, which do not vanish where its input does."""
    known = facts(layer)
    if known.head:
        return False
    spatial = family_of(layer) is Family.CONVOLUTION and not (known.feeds_merge or known.pointwise)
    boundary = known.flatten_boundary
    flattens = boundary is not None and math.prod(boundary.shape) > boundary.shape[boundary.channel_dim - 1]
    return spatial or flattens or known.input_layer


def _goes_by_entry(node: fx.Node) -> bool:
    """Whether relevance goes through a call entry by entry."""
    return passes_through(node) or family_of(node) in (Family.SELECTION, Family.DATA_MOVEMENT)


def _scales(node: fx.Node) -> bool:
    """Whether the call multiplies a signal by a number that is not 0."""
    scales = node.target in (aten.mul.Tensor, aten.div.Tensor) and isinstance(node.args[1], int | float)
    return node.target is aten.neg.default or (scales and node.args[1] != 0)
