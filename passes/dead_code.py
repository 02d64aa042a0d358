"""Dead code: operations whose value nobody reads."""

from __future__ import annotations

from agf_fx.ir.graph import ExplanationGraph


def eliminate_dead_code(explanation: ExplanationGraph) -> ExplanationGraph:
    """Erase every operation that neither the maps nor the logits need, such as gradients at the image."""
    for node in reversed(list(explanation.graph.nodes)):
        if node.op == "call_function" and not node.users:
            explanation.graph.erase_node(node)
    return explanation
