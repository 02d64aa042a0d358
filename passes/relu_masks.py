"""Masks of values that are zero there already, because a ReLU behind has put the zeros in."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.rewriting import insert_before, is_call, is_stabilised, nonzero_of, substitute

aten = torch.ops.aten


def drop_relu_masks(explanation: ExplanationGraph) -> ExplanationGraph:
    """Drop masks from t where t = 0 wherever y = 0, y being the output of a ReLU.

    - The ReLU's own gradient mask: t ⊙ [y > 0] -> t. Bits stay.
    - The guarded reciprocal of y: t ⊙ [y ≠ 0] / (y + ε) -> t / (y + ε), as 0 / ε = 0.
    - The guarded reciprocal of the ReLU's input s: t ⊙ [s ≠ 0] / (s + ε) -> t / (y + ε), as s = y wherever t ≠ 0.

    The relevance of a ReLU, Φ ⊙ y / (y + ε), is such a t. Quotients may change by their last bit.
    """
    vanishing = _vanishing(explanation.graph)
    for node in list(explanation.graph.nodes):
        if is_call(node, aten.threshold_backward.default):
            t, y, threshold = node.args
            if threshold == 0 and y in vanishing[t]:
                substitute(node, t)
        elif is_call(node, aten.mul.Tensor) and is_call(node.args[1], aten.div.Tensor):
            _divide_plainly(node, vanishing[node.args[0]])
    return explanation


def _vanishing(graph: fx.Graph) -> dict[fx.Node, frozenset[fx.Node]]:
    """For every node, ReLU outputs y such that it is 0 wherever y is; only elementwise operations carry that on."""
    found: dict[fx.Node, frozenset[fx.Node]] = {}
    nothing: frozenset[fx.Node] = frozenset()
    for node in graph.nodes:
        sources = [found[source] if isinstance(source, fx.Node) else nothing for source in node.args]
        found[node] = nothing
        if is_call(node, aten.relu.default):
            found[node] = sources[0] | {node}
        elif is_call(node, aten.mul.Tensor):
            found[node] = sources[0] | sources[1]
        elif is_call(node, aten.div.Tensor, aten.mul.Scalar, aten.neg.default, aten.sign.default, aten.abs.default):
            found[node] = sources[0]
        elif is_call(node, aten.threshold_backward.default) and node.args[2] == 0:
            found[node] = sources[0] | ({node.args[1]} if is_call(node.args[1], aten.relu.default) else nothing)
        elif is_call(node, aten.add.Tensor, aten.sub.Tensor):
            found[node] = sources[0] & sources[1]
    return found


def _divide_plainly(product: fx.Node, zeros: frozenset[fx.Node]) -> None:
    """t ⊙ ([b ≠ 0] / d) -> t / (y + ε), where b is y, or y = ReLU(b), for a y at whose zeros t vanishes."""
    t, (mask, denominator) = product.args[0], product.args[1].args
    b = nonzero_of(mask)
    shifted = denominator.args[0] if is_stabilised(denominator) else denominator
    if b is None or not is_call(shifted, aten.add.Scalar) or shifted.args[0] is not b:
        return
    y = next((y for y in zeros if y is b or y.args[0] is b), None)
    if y is not None:
        denominator = insert_before(product, aten.add.Scalar, y, shifted.args[1])
        substitute(product, insert_before(product, aten.div.Tensor, t, denominator))
