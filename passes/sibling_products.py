"""Sibling products of convolution size, computed in one call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from operator import getitem

import torch
from torch import fx

from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.rewriting import insert_before, is_call, substitute

aten = torch.ops.aten

# A product over few positions spends its time on reading the weight: one call for two operands reads it once. Where
# the operand is larger, concatenating the two costs more than that (measured on 2 CPU cores: break-even near 10).
_WEIGHT_PER_OPERAND = 16


def stack_sibling_products(explanation: ExplanationGraph) -> ExplanationGraph:
    """Join transposed convolutions of one geometry.

    - One operand, several weights, as the L⁺ᵀS and L⁻ᵀS of the z^B rule: the weights are concatenated, and so are the
      channels of the result.
    - One weight, several operands, as the two |L|ᵀ of C and A: the operands are concatenated as further samples, where
      the weight is much larger than a sample of the operand.
    """
    sizes = {node.name: _sizes(node) for node in explanation.canonical.calls if is_call(node, aten.conv2d.default)}
    for same, join in ((_operand_and_geometry, _join_weights), (_weight_and_geometry, _join_operands)):
        for siblings in _groups(explanation.graph, same):
            weight, operand = sizes[siblings[0].meta["site"]]
            if join is _join_weights or weight >= _WEIGHT_PER_OPERAND * operand:
                join(siblings)
    return explanation


def _sizes(convolution: fx.Node) -> tuple[int, int]:
    """Entries of a layer's weight, and of a sample of its output."""
    return convolution.args[1].meta["type"].entries, convolution.meta["type"].sample_size


# Siblings belong to one layer: elsewhere, an equal geometry says nothing of kernels and channels.


def _operand_and_geometry(node: fx.Node) -> Hashable:
    operand, _, _, *geometry = node.args
    return node.meta["site"], operand, str(geometry)


def _weight_and_geometry(node: fx.Node) -> Hashable:
    _, weight, _, *geometry = node.args
    return node.meta["site"], weight, str(geometry)


def _groups(graph: fx.Graph, key: Callable[[fx.Node], Hashable]) -> list[list[fx.Node]]:
    """Ungrouped transposed convolutions that agree in ``key``, in order, none reading another's result."""
    found: dict[Hashable, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        if is_call(node, aten.conv_transpose2d.input) and node.args[2] is None and node.args[6] == 1:
            found[key(node)].append(node)
    return [nodes for nodes in found.values() if len(nodes) > 1 and _gather(nodes)]


def _gather(siblings: list[fx.Node]) -> bool:
    """Move what the later siblings read in front of the first one; False if they need the first one's result."""
    first, *others = siblings
    order = {node: position for position, node in enumerate(first.graph.nodes)}
    late: set[fx.Node] = set()
    pending = [source for node in others for source in node.all_input_nodes]
    while pending:
        node = pending.pop()
        if node in siblings:
            return False
        if order[node] > order[first] and node not in late:
            late.add(node)
            pending.extend(node.all_input_nodes)
    for node in sorted(late, key=order.__getitem__):
        first.prepend(node)
    return True


def _join_weights(siblings: list[fx.Node]) -> None:
    first = siblings[0]
    operand, _, _, *geometry = first.args
    weights = insert_before(first, aten.cat.default, [node.args[1] for node in siblings], 1)
    product = insert_before(first, aten.conv_transpose2d.input, operand, weights, None, *geometry)
    _distribute(product, siblings, dim=1)


def _join_operands(siblings: list[fx.Node]) -> None:
    first = siblings[0]
    _, weight, _, *geometry = first.args
    operands = insert_before(first, aten.cat.default, [node.args[0] for node in siblings], 0)
    product = insert_before(first, aten.conv_transpose2d.input, operands, weight, None, *geometry)
    _distribute(product, siblings, dim=0)


def _distribute(product: fx.Node, siblings: list[fx.Node], dim: int) -> None:
    """Equal parts of the joint product to the siblings' readers."""
    first = siblings[0]
    chunks = insert_before(first, aten.chunk.default, product, len(siblings), dim)
    parts = [insert_before(first, getitem, chunks, position) for position in range(len(siblings))]
    for node, part in zip(siblings, parts, strict=True):
        substitute(node, part)
