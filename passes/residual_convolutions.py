"""Convolutions inside residual regions, and those of them that feed the sum."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.ir.activations import passes_through
from agf_fx.ir.facts import facts, mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import Family, depends_on_images, family_of

aten = torch.ops.aten

_REARRANGING = (aten.reshape.default, aten.permute.default)  # as for a norm in another order of dimensions


def mark_residual_convolutions(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark convolutions ``in_region``, between a fan-out and the sum where its branches meet, and those of them that
    ``feeds_merge``: their output reaches the sum through pass-through operations only, activations written by hand
    among them, perhaps in another order of dimensions. Every 1×1 convolution is ``pointwise``, wherever it stands, and
    has a ``kernel_padding`` where zeros around its kernel stand for padding on one side.

    In a bottleneck the last convolution and that of the downsampling branch feed the sum, in a basic block the second.
    """
    import networkx as nx  # takes longer to import than a cached graph to load

    for node in canonical.calls:
        if node.meta["depends_on_images"] and family_of(node) is Family.CONVOLUTION:
            padding = _kernel_padding(node)
            own = (size - sum(pair) for size, pair in zip(_kernel(node), padding, strict=True))
            mark(node, pointwise=all(size == 1 for size in own))
            if any(map(any, padding)):
                mark(node, kernel_padding=padding)
    dataflow = canonical.to_networkx()
    by_name = {node.name: node for node in canonical.calls}
    for merge in canonical.calls:
        fan_out = facts(merge).residual_merge
        if fan_out is None:
            continue
        region = nx.descendants(dataflow, fan_out) & nx.ancestors(dataflow, merge.name)
        for node in (by_name[name] for name in region if depends_on_images(by_name[name])):
            if family_of(node) is Family.CONVOLUTION:
                feeds = facts(node).feeds_merge or _reaches_directly(node, merge)
                mark(node, in_region=True, feeds_merge=feeds)
    return canonical


def _kernel(convolution: fx.Node) -> tuple[int, ...]:
    return tuple(convolution.args[1].meta["type"].shape[2:])


def _kernel_padding(convolution: fx.Node) -> tuple[tuple[int, int], ...]:
    """Zeros around the kernel, in place of padding that differs between the sides."""
    weight, dims = convolution.args[1], len(_kernel(convolution))
    widths = list(weight.args[1]) if weight.target is aten.constant_pad_nd.default else []
    widths = [*widths, *[0] * (2 * dims)][: 2 * dims]
    return tuple((widths[2 * dim], widths[2 * dim + 1]) for dim in reversed(range(dims)))


def _reaches_directly(node: fx.Node, merge: fx.Node) -> bool:
    return any(
        user is merge or ((passes_through(user) or user.target in _REARRANGING) and _reaches_directly(user, merge))
        for user in node.users
        if user.op == "call_function" and depends_on_images(user)
    )
