"""Sibling products of convolution size, computed in one call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Hashable
from operator import getitem

import torch
from torch import fx

from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.rewriting import insert_before, is_call, substitute
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS

aten = torch.ops.aten

# A product over few positions spends its time on reading the weight: one call for two operands reads it once. Where
# the operand is larger, concatenating the two costs more than that (measured on 2 CPU cores: break-even near 10).
_WEIGHT_PER_OPERAND = 16

_OPERAND, _WEIGHT = 0, 1  # positions among the arguments of a transposed convolution


def stack_sibling_products(explanation: ExplanationGraph) -> ExplanationGraph:
    """Join transposed convolutions of one geometry.

    - One operand, several weights, as the L⁺ᵀS and L⁻ᵀS of the z^B rule: the weights are concatenated, and so are the
      channels of the result.
    - One weight, several operands, as the two |L|ᵀ of C and A: the operands are concatenated as further samples, where
      the weight is much larger than a sample of the operand.

    These are the adjoints of convolutions. Transposed convolutions that are layers of the model stay as they are: the
    operands of their products have different numbers of samples.
    """
    sizes = {node.name: _sizes(node) for node in explanation.canonical.calls if is_call(node, *CONVOLUTIONS)}
    for key, position in ((_operand_and_geometry, _WEIGHT), (_weight_and_geometry, _OPERAND)):
        for siblings in _groups(explanation.graph, key, sizes):
            weight, operand = sizes[siblings[0].meta["site"]]
            if position == _WEIGHT or weight >= _WEIGHT_PER_OPERAND * operand:
                _join(siblings, position)
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


def _groups(graph: fx.Graph, key: Callable[[fx.Node], Hashable], layers: Container[str]) -> list[list[fx.Node]]:
    """Ungrouped adjoints of ``layers`` that agree in ``key``, in order, none reading another's result."""
    found: dict[Hashable, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        if not is_call(node, *TRANSPOSED_CONVOLUTIONS) or node.meta["site"] not in layers:
            continue
        if node.args[2] is None and node.args[6] == 1:
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


def _join(siblings: list[fx.Node], position: int) -> None:
    """One call on the siblings' arguments at ``position``, concatenated in the dimension of the same number.

    That is 0 for the operand, whose samples come first, and 1 for the weight of a transposed convolution, whose second
    dimension makes the result's channels.
    """
    first = siblings[0]
    arguments = list(first.args)
    arguments[position] = insert_before(first, aten.cat.default, [node.args[position] for node in siblings], position)
    product = insert_before(first, first.target, *arguments)
    _distribute(product, siblings, dim=position)


def _distribute(product: fx.Node, siblings: list[fx.Node], dim: int) -> None:
    """Equal parts of the joint product to the siblings' readers."""
    first = siblings[0]
    chunks = insert_before(first, aten.chunk.default, product, len(siblings), dim)
    parts = [insert_before(first, getitem, chunks, position) for position in range(len(siblings))]
    for node, part in zip(siblings, parts, strict=True):
        substitute(node, part)
