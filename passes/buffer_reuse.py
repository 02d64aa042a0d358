"""Elementwise operations that write into memory nobody reads any more."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.liveness import owners
from agf_fx.ir.operations import IN_PLACE
from agf_fx.ir.rewriting import is_call
from agf_fx.ir.types import TensorType

aten = torch.ops.aten

_COMMUTATIVE = {aten.add.Tensor, aten.mul.Tensor}


def reuse_buffers(explanation: ExplanationGraph) -> ExplanationGraph:
    """Compute in place where an operand of the result's type dies: fresh memory costs more than the arithmetic.

    The operand must be the graph's own (no input), whole (no part of, and no repetition in, a larger value), and
    neither it nor anything that shares its memory may be read later or returned. Bits stay. For execution operation by
    operation; a compiler of kernels plans its memory itself.
    """
    explanation.infer_types()
    graph = explanation.graph
    owner = owners(graph)
    order = {node: position for position, node in enumerate(graph.nodes)}
    last_read = dict.fromkeys(order, 0)
    for node in order:
        for source in node.all_input_nodes:
            last_read[owner[source]] = order[node]
    for node in list(graph.nodes):
        if is_call(node, *IN_PLACE):
            for position in (0, 1) if node.target in _COMMUTATIVE else (0,):
                operand = node.args[position]
                if _reusable(node, operand, owner) and last_read[owner[operand]] == order[node]:
                    _write_into(node, position)
                    _share(node, owner[operand], owner, last_read)
                    break
    return explanation


def _reusable(node: fx.Node, operand: object, owner: dict[fx.Node, fx.Node]) -> bool:
    """Whether the memory of ``operand`` can take the result, if nothing else reads it."""
    if not is_call(operand) or operand.meta["type"] != node.meta["type"]:
        return False
    memory, kind = owner[operand], owner[operand].meta["type"]
    whole = (
        memory.op == "call_function" and isinstance(kind, TensorType) and kind.entries == operand.meta["type"].entries
    )
    alone = sum(owner[source] is memory for source in node.all_input_nodes) == 1
    return whole and alone and not _repeats(operand, memory)


def _repeats(view: fx.Node, memory: fx.Node) -> bool:
    """Whether entries of ``view`` share a place in ``memory``; as many as there were if it repeats a part."""
    while view is not memory:
        if view.target is aten.expand.default:
            return True
        view = view.args[0]  # what a view, or an operation in place, lies in
    return False


def _write_into(node: fx.Node, position: int) -> None:
    if position:
        node.args = (node.args[1], node.args[0])
    node.target = IN_PLACE[node.target]


def _share(node: fx.Node, memory: fx.Node, owner: dict[fx.Node, fx.Node], last_read: dict[fx.Node, int]) -> None:
    """Record that ``node``, and what shares its memory, now lies in ``memory``."""
    last_read[memory] = last_read[node]
    for other, whose in owner.items():
        if whose is node:
            owner[other] = memory
