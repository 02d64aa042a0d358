"""The baseline as an input of the canonical graph: for methods that compare images with one."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, fx

from agf_fx.ir.graph import BASELINE, CanonicalGraph
from agf_fx.ir.types import TensorType


def add_baseline(canonical: CanonicalGraph, image: Tensor) -> CanonicalGraph:
    """A copy of the graph with the constant ``baseline``, (1, *image), as its last input; itself if it has one.

    No call of the model reads it. What is computed from it depends on no image, and so is prepared with the weights.
    """
    if BASELINE in canonical.signature.constants:
        return canonical
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    *_, last = canonical.graph.find_nodes(op="placeholder")
    for node in canonical.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        copies[node].meta = dict(node.meta)
        if node is last:
            added = graph.placeholder(BASELINE)
            added.meta = {"type": TensorType(tuple(image.shape), image.dtype), "depends_on_images": False}
    constants = {**canonical.signature.constants, BASELINE: image}
    return replace(canonical, graph=graph, signature=replace(canonical.signature, constants=constants))
