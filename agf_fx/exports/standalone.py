"""An explanation graph with its weights inside: what every format is made of."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from agf_fx.ir.graph import ExplanationGraph

_IMAGES, _TARGETS = 3, 2  # of the example: unequal and neither 0 nor 1, which PyTorch treats as special


@dataclass(frozen=True)
class Standalone:
    """An explainer that needs nothing but PyTorch.

    Attributes:
        explanation: the lowered graph, contiguous.
        weights: placeholder name -> weight or constant, in the dtype in which the graph is to run.
        images: an example batch (3, C, H, W) of zeros.
        target: an example (3, 2) of zeros, int64.
    """

    explanation: ExplanationGraph
    weights: Mapping[str, Tensor]
    images: Tensor
    target: Tensor

    @functools.cached_property
    def module(self) -> fx.GraphModule:
        """``(images, target) -> (maps, logits)``, a graph of ATen operations with the weights as buffers.

        What depends on weights alone is computed in it, so that the file holds every weight once.
        """
        return with_weights(self.explanation, self.weights)


def standalone(explanation: ExplanationGraph, weights: Mapping[str, Tensor]) -> Standalone:
    """What the formats are written from.

    Args:
        explanation: a lowered graph, contiguous.
        weights: placeholder name -> weight or constant, in the dtype in which the graph is to run.
    """
    kind = explanation.canonical.image_type
    like = next((weight for weight in weights.values() if weight.is_floating_point()), torch.empty(0, dtype=kind.dtype))
    images = torch.zeros(_IMAGES, *kind.sample_shape, dtype=like.dtype, device=like.device)
    target = torch.zeros(_IMAGES, _TARGETS, dtype=torch.int64, device=like.device)
    return Standalone(explanation, weights, images, target)


def with_weights(explanation: ExplanationGraph, weights: Mapping[str, Tensor]) -> fx.GraphModule:
    """The graph as a module ``(images, target) -> (maps, logits)`` that holds the weights as buffers."""
    holder, graph = nn.Module(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    values: dict[str, fx.Node] = {}
    inputs = [graph.placeholder(node.name) for node in list(explanation.graph.nodes)[:2]]
    for name, weight in weights.items():
        holder.register_buffer(name, weight.detach().clone(memory_format=torch.contiguous_format))
        values[name] = graph.get_attr(name)
    if explanation.prepare:
        copies = {node: values[node.name] for node in explanation.prepare.graph.nodes if node.op == "placeholder"}
        prepared = graph.graph_copy(explanation.prepare.graph, copies)
        values |= dict(zip(explanation.prepared, prepared, strict=True))
    placeholders = [node for node in explanation.graph.nodes if node.op == "placeholder"]
    copies = dict(zip(placeholders, [*inputs, *(values[name] for name in explanation.inputs)], strict=True))
    graph.output(graph.graph_copy(explanation.graph, copies))
    graph.eliminate_dead_code()
    used = {node.target for node in graph.find_nodes(op="get_attr")}
    for name in set(weights) - used:
        delattr(holder, name)
    return fx.GraphModule(holder, graph, "Explanation")
