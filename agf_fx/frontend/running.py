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
    weights = {name: tensor_at(model, path).detach() for name, path in signature.weights.items()}
    return canonical.forward(images.clone(), weights | dict(signature.constants))
