"""Running a canonical graph on a model's weights, to look at what was captured."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from agf_fx.ir.graph import CanonicalGraph, tensor_at


def run(canonical: CanonicalGraph, model: nn.Module, images: Tensor) -> Tensor:
    """The logits (N, classes) of a graph.

    Args:
        canonical: the graph.
        model: where its weights are.
        images: (N, ...).
    """
    return trace_of(canonical, model, images)[canonical.logits]


def trace_of(canonical: CanonicalGraph, model: nn.Module, images: Tensor) -> dict[fx.Node, Any]:
    """The value of every node of a graph; arguments as for `run`."""
    signature = canonical.signature
    weights = [
        signature.constants[node.name]
        if node.name in signature.constants
        else tensor_at(model, signature.weights[node.name]).detach()
        for node in canonical.graph.find_nodes(op="placeholder")
        if node is not canonical.images
    ]
    program = fx.Interpreter(fx.GraphModule(nn.Module(), canonical.graph), garbage_collect_values=False)
    program.run(images.clone(), *weights)
    return program.env
