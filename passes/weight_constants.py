"""What depends on the weights alone, computed once per set of weights instead of once per batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from agf_fx.ir.graph import PREPARED, ExplanationGraph
from agf_fx.ir.rewriting import weights_only


def hoist_weight_constants(explanation: ExplanationGraph) -> ExplanationGraph:
    """Split the graph in two: ``prepare``, from weights and constants to what the rest reads, and the rest.

    Hoisted are |W|, W⁺ and W⁻, folded batch norms, and |L|1 with its reciprocal, which belongs to one image size.
    Weights that the rest reads as they are stay inputs of it.
    """
    fixed = weights_only(explanation.graph)
    needed = [
        node for node in explanation.graph.nodes if node in fixed and any(user not in fixed for user in node.users)
    ]
    prepare = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    _, target, *weights = (node for node in explanation.graph.nodes if node.op == "placeholder")
    for node in explanation.graph.nodes:
        if node in weights or node in fixed:
            copies[node] = prepare.node_copy(node, copies.__getitem__)
    prepare.output(tuple(copies[node] for node in needed))

    last_input = weights[-1] if weights else target
    for node in needed:
        with explanation.graph.inserting_after(last_input):
            constant = explanation.graph.placeholder(PREPARED + node.name)
        constant.meta = dict(node.meta)
        last_input = constant
        node.replace_all_uses_with(constant, lambda user: user not in fixed)
    for node in reversed([node for node in explanation.graph.nodes if node in fixed]):
        explanation.graph.erase_node(node)
    for node in weights:
        if not node.users:
            explanation.graph.erase_node(node)
    name = f"{explanation.canonical.name}_prepare"
    return replace(explanation, prepare=fx.GraphModule(torch.nn.Module(), prepare, name))
