"""What the calls of a graph cost: operations and bytes moved, as expressions in N images and K targets."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

from agf_fx.ir.flops import flops, is_product
from agf_fx.ir.liveness import VIEWS
from agf_fx.ir.types import TensorType, typed

aten = torch.ops.aten

_READS_NO_VALUES = {aten.sym_size.int, aten.new_empty.default, aten.empty_like.default}
_ZERO = sympy.S.Zero


@dataclass(frozen=True)
class NodeCost:
    """The cost of one call.

    Attributes:
        flops: floating-point operations; None where the operation has no row, as one of the user's own.
        bytes: read and written: every operand once, and the result. Views move nothing.
        product: whether it is a convolution or a product of matrices.
    """

    flops: sympy.Expr | None
    bytes: sympy.Expr
    product: bool = False


FREE = NodeCost(_ZERO, _ZERO)
"""The cost of inputs and results."""


def node_cost(node: fx.Node) -> NodeCost:
    """The cost of a call whose operands have types."""
    if node.op != "call_function":
        return FREE
    counted = flops(node.target, node.meta["type"], tuple(map(typed, node.args)))
    moved = _ZERO if node.target in VIEWS or node.target in _READS_NO_VALUES else _moved(node)
    return NodeCost(None if counted is None else sympy.sympify(counted), moved, is_product(node.target))


def total(expressions: Iterable[sympy.Expr]) -> sympy.Expr:
    """The sum."""
    return sympy.Add(*expressions)


def _moved(node: fx.Node) -> sympy.Expr:
    return total([*map(_read, node.all_input_nodes), bytes_of(node.meta["type"])])


def _read(node: fx.Node) -> sympy.Expr:
    """Bytes of an operand: of one that is repeated in a view, what lies in memory."""
    while node.op == "call_function" and node.target is aten.expand.default:
        node = node.args[0]
    return bytes_of(node.meta.get("type"))


def bytes_of(kind: Any) -> sympy.Expr:
    """Bytes of a value: a tensor, or several."""
    return total(_sizes(kind))


def _sizes(kind: Any) -> Iterator[sympy.Expr]:
    if isinstance(kind, TensorType):
        yield _tensor_bytes(kind)
    elif isinstance(kind, tuple | list):
        for item in kind:
            yield from _sizes(item)


@functools.lru_cache(4096)
def _tensor_bytes(kind: TensorType) -> sympy.Expr:
    return sympy.sympify(kind.entries) * kind.dtype.itemsize
