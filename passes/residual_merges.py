"""Residual merges: sums whose two sides come from one fan-out."""

from __future__ import annotations

from agf_fx.ir.facts import facts, mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import Family, family_of


def mark_residual_merges(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark ``residual_merge`` on every sum of two signals, with the name of the node where they part.

    That node is the sum's immediate dominator: the last one that every path from the images to the sum crosses.
    """
    import networkx as nx  # takes longer to import than a cached graph to load

    dominators = nx.immediate_dominators(canonical.to_networkx(), canonical.images.name)
    for node in canonical.calls:
        if node.meta["depends_on_images"] and family_of(node) is Family.MERGE and not facts(node).tail:
            mark(node, residual_merge=dominators[node.name])
    return canonical
