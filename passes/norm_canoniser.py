"""Batch norms as part of the layer in front of them, in the canonical graph: for methods that look at biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.layers import PUTS_OUT
from agf_fx.ir.shape_rules import result_type
from agf_fx.ir.types import typed
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS

aten = torch.ops.aten


def fold_norms(canonical: CanonicalGraph) -> CanonicalGraph:
    """BN(Wx + b) = (sW)x + (b - mean)s + β as one layer; a copy of the graph, and the graph itself if there is none.

    s = γ / √(variance + eps), per output channel. The relevance of a layer with a batch norm then is that of the one
    layer that it computes, its bias (b - mean)s + β included, as Zennit's canonisers have it. A batch norm stays where
    something else reads the layer's output, or where no layer stands in front.
    """
    if not any(map(_is_foldable, canonical.calls)):
        return canonical
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in canonical.graph.nodes:
        if any(_is_foldable(user) and user.args[0] is node for user in node.users):
            continue  # made where its norm stands
        copy = _folded(graph, node, copies) if _is_foldable(node) else graph.node_copy(node, copies.__getitem__)
        copy.meta = dict(node.meta) | (dict(node.args[0].meta) if _is_foldable(node) else {})
        copies[node] = copy
        if _is_foldable(node):
            copy.meta[PUTS_OUT] = node.meta.get(PUTS_OUT, [])  # not the output of the layer alone
        if _is_foldable(node):
            copies[node.args[0]] = copy
    return replace(canonical, graph=graph)


def _is_foldable(norm: fx.Node) -> bool:
    if norm.op != "call_function" or norm.target is not aten.batch_norm.default:
        return False
    layer = norm.args[0]
    if not isinstance(layer, fx.Node) or len(layer.users) != 1 or facts(layer).captured_vjp:
        return False
    if layer.target is aten.linear.default:  # its outputs are the channels only where there are no further dimensions
        return layer.meta["type"].rank == 2
    return layer.target in CONVOLUTIONS or layer.target in TRANSPOSED_CONVOLUTIONS


def _folded(graph: fx.Graph, norm: fx.Node, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    """The layer in front of ``norm``, with its weights scaled and its bias shifted."""
    layer = norm.args[0]
    arguments = fx.map_arg(norm.args, lambda node: copies.get(node))
    _, gamma, beta, mean, variance, _, _, eps, _ = arguments
    x, weight, bias, *geometry = fx.map_arg(layer.args, copies.__getitem__)

    def made(target: Callable[..., Any], *args: Any) -> fx.Node:
        new = graph.call_function(target, args)
        kind = result_type(target, [typed(argument) for argument in args])
        new.meta = {"type": kind, "depends_on_images": False, "module": layer.meta["module"]}
        new.meta["source"] = norm.meta["source"]
        return new

    scale = made(aten.rsqrt.default, made(aten.add.Scalar, variance, eps))
    scale = scale if gamma is None else made(aten.mul.Tensor, gamma, scale)
    shift = made(aten.neg.default, mean) if bias is None else made(aten.sub.Tensor, bias, mean)
    shift = made(aten.mul.Tensor, shift, scale)
    shift = shift if beta is None else made(aten.add.Tensor, shift, beta)
    sizes = [int(size) for size in weight.meta["type"].shape]
    if layer.target in TRANSPOSED_CONVOLUTIONS:  # (inputs, outputs of a group, ...), the groups one after another
        groups, kernel = layer.args[6], sizes[2:]
        apart = made(aten.reshape.default, weight, [groups, sizes[0] // groups, *sizes[1:]])
        factor = made(aten.reshape.default, scale, [groups, 1, sizes[1], *[1] * len(kernel)])
        scaled = made(aten.reshape.default, made(aten.mul.Tensor, apart, factor), sizes)
    else:
        factor = made(aten.reshape.default, scale, [-1, *[1] * (len(sizes) - 1)])
        scaled = made(aten.mul.Tensor, weight, factor)
    return graph.create_node("call_function", layer.target, (x, scaled, shift, *geometry), name=layer.name)
