"""Flat convolutions: those in residual regions whose relevance is C alone."""

from __future__ import annotations

from torch import fx

from agf_fx.ir.facts import facts, mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import Family, depends_on_images, family_of


def mark_flat_convolutions(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark ``flat``: in a residual region, a convolution with a 1×1 kernel, or whose output reaches the sum through
    pass-through operations only.

    In a bottleneck that leaves the middle convolution full, in a basic block the first; downsampling branches are
    flat. Outside residual regions no convolution is. Every 1×1 convolution is marked ``pointwise``, wherever it stands.
    """
    import networkx as nx  # takes longer to import than a cached graph to load

    for node in canonical.calls:
        if node.meta["depends_on_images"] and family_of(node) is Family.CONVOLUTION and _is_pointwise(node):
            mark(node, pointwise=True)
    dataflow = canonical.to_networkx()
    by_name = {node.name: node for node in canonical.calls}
    for merge in canonical.calls:
        fan_out = facts(merge).residual_merge
        if fan_out is None:
            continue
        region = nx.descendants(dataflow, fan_out) & nx.ancestors(dataflow, merge.name)
        for node in (by_name[name] for name in region if depends_on_images(by_name[name])):
            is_convolution = family_of(node) is Family.CONVOLUTION
            if is_convolution and (_is_pointwise(node) or _reaches_directly(node, merge)):
                mark(node, flat=True)
    return canonical


def _is_pointwise(convolution: fx.Node) -> bool:
    return all(size == 1 for size in convolution.args[1].meta["type"].shape[2:])


def _reaches_directly(node: fx.Node, merge: fx.Node) -> bool:
    return any(
        user is merge or (family_of(user) is Family.PASS_THROUGH and _reaches_directly(user, merge))
        for user in node.users
        if user.op == "call_function" and depends_on_images(user)
    )
