"""Pooling adjoints that keep channels-last tensors channels-last."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.rewriting import insert_before, is_call
from agf_fx.ir.types import carried_type
from agf_fx.ir.vocabulary import signals

aten = torch.ops.aten

_POOLING = (
    aten._adaptive_avg_pool2d_backward.default,
    aten.avg_pool2d_backward.default,
    aten.max_pool2d_with_indices_backward.default,
)
_CHANNELS_INNERMOST, _CHANNELS_SECOND = [0, 2, 3, 1], [0, 3, 1, 2]


def keep_channels_last(explanation: ExplanationGraph) -> ExplanationGraph:
    """For graphs that run in channels-last: let pooling adjoints return that memory format.

    They lay their result out like the pooled tensor that they are given (but read nothing of it), and merging targets
    with images loses the layout of that: as a view where there is one pair, in a copy where there are several. So the
    pooled tensor is replaced by an empty one, made with its channels innermost; and indices are repeated with their
    channels innermost. Otherwise all that follows would mix two formats, at several times the cost.
    """
    calls = {node.name: node for node in explanation.canonical.calls}
    for node in list(explanation.graph.nodes):
        if not is_call(node, *_POOLING):
            continue
        kind = carried_type(signals(calls[node.meta["site"]])[0])
        if kind.rank == 4:  # others have one format
            relevance, _, *rest = node.args
            pooled = _empty(node, relevance, kind.sample_shape)
            node.args = (relevance, pooled, *(_repeated(node, value) if is_call(value) else value for value in rest))
    return explanation


def _empty(node: fx.Node, relevance: fx.Node, sample_shape: tuple[int, ...]) -> fx.Node:
    """Memory for (K·N, C, H, W) with the channels innermost; K·N is that of ``relevance``."""
    channels, *spatial = sample_shape
    pairs = insert_before(node, aten.sym_size.int, relevance, 0)
    memory = insert_before(node, aten.new_empty.default, relevance, [pairs, *spatial, channels])
    return insert_before(node, aten.permute.default, memory, _CHANNELS_SECOND)


def _repeated(node: fx.Node, merged: fx.Node) -> fx.Node:
    """(N, C, H, W) for every target, as ``merged`` is, but repeated with the channels innermost."""
    value, sizes = merged.args[0].args
    innermost = insert_before(node, aten.permute.default, value, _CHANNELS_INNERMOST)
    repeated = insert_before(
        node, aten.flatten.using_ints, insert_before(node, aten.expand.default, innermost, sizes), 0, 1
    )
    return insert_before(node, aten.permute.default, repeated, _CHANNELS_SECOND)
