"""One floating-point dtype for a graph that runs in another one than its model was captured in."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from agf_fx.ir.graph import ExplanationGraph


def convert_dtypes(explanation: ExplanationGraph, dtype: torch.dtype) -> ExplanationGraph:
    """Name ``dtype`` wherever a call names a floating-point one: what it converts to, and what it makes tensors of.

    Images, weights and constants arrive in ``dtype`` then, and no part of the graph stays behind in the model's own,
    as the parts would that cast their input or that mix two dtypes.
    """

    def changed(value: Any) -> Any:
        return dtype if isinstance(value, torch.dtype) and value.is_floating_point else value

    for node in [node for node in explanation.graph.nodes if node.op == "call_function"]:
        node.args = fx.node.map_aggregate(node.args, changed)
        node.kwargs = fx.node.map_aggregate(node.kwargs, changed)
    return explanation
