"""Sign tests of values that cannot be negative."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.rewriting import is_call, is_stabilised, substitute
from agf_fx.ir.signs import nonnegative

aten = torch.ops.aten


def simplify_nonnegative_values(explanation: ExplanationGraph) -> ExplanationGraph:
    """For x ≥ 0: |x| -> x, ReLU(x) -> x, and x + ε, where it is guarded against being 0, -> x + ε. Bits stay."""
    found = nonnegative(explanation.graph.nodes)
    for node in list(explanation.graph.nodes):
        if is_call(node, aten.abs.default, aten.relu.default) and node.args[0] in found:
            if node.target is aten.abs.default or node.meta["stream"] != "forward":
                substitute(node, node.args[0])
        elif is_stabilised(node) and _positive(node.args[0], found):
            substitute(node, node.args[0])
    return explanation


def _positive(value: Any, nonnegative: set[fx.Node]) -> bool:
    return is_call(value, aten.add.Scalar) and value.args[0] in nonnegative and value.args[1] > 0
