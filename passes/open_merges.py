"""Sums that no ReLU closes."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.ir.facts import facts, mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import SIGNAL_FREE, Family, family_of

aten = torch.ops.aten


def mark_open_merges(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark ``open_merge`` on sums of two signals that something else reads than a ReLU, or another sum that one reads.

    The published code divides a sum's relevance by the sum. That is bounded where a ReLU follows, which leaves no
    relevance where the sum is not positive. Where a normalisation, another activation or the next block reads the sum,
    entries near zero have relevance like any other, and the quotients grow from block to block. Data movement may
    stand before the ReLU, and a reader that takes the sum for a gate, or compares it, hands back no relevance.
    """
    closed: set[fx.Node] = set()
    for node in reversed(canonical.calls):
        if not node.meta["depends_on_images"]:
            continue
        merges = bool(facts(node).residual_merge) and not facts(node).gate
        moves = family_of(node) is Family.DATA_MOVEMENT
        takers = [reader for reader in node.users if reader.target not in SIGNAL_FREE]
        readers = [reader for reader in takers if facts(reader).gate != node.name]
        if node.target is aten.relu.default or ((merges or moves) and all(reader in closed for reader in readers)):
            closed.add(node)
        elif merges:
            mark(node, open_merge=True)
    return canonical
