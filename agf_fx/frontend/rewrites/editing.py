"""What rewrites are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from agf_fx.errors import VerifyError
from agf_fx.ir.layers import PUTS_OUT
from agf_fx.ir.shape_rules import result_type
from agf_fx.ir.types import TensorType, typed
from agf_fx.ir.vocabulary import SIGNAL_FREE, depends_on_images

aten = torch.ops.aten


def kind_of(node: fx.Node) -> TensorType:
    """The type of a node with one output."""
    return node.meta["type"]


def insert(before: fx.Node, target: Callable[..., Any], *args: Any, type: Any = None) -> fx.Node:
    """A new call in front of ``before``, from the same module and source line.

    Args:
        before: the call to be rewritten.
        target, args: the new call; ``target`` must be in the table of shape rules unless ``type`` is given.
        type: the type of its value.
    """
    with before.graph.inserting_before(before):
        new = before.graph.call_function(target, args)
    new.meta = {key: before.meta[key] for key in ("module", "source")}
    new.meta["depends_on_images"] = target not in SIGNAL_FREE and any(map(depends_on_images, new.all_input_nodes))
    new.meta["type"] = type or result_type(target, [typed(argument) for argument in args])
    if new.meta["type"] is None:
        raise VerifyError(f"{target} is in no table of shapes (agf_fx/ir/shape_rules.py).")
    return new


def constant(before: fx.Node, value: Tensor) -> fx.Node:
    """``value`` as an input of the graph that ``before`` belongs to; equal constants are one input."""
    inputs = [node for node in before.graph.nodes if node.op == "placeholder"]
    for node in inputs:
        known = value_of(node)
        if known is not None and known.dtype == value.dtype and torch.equal(known.to(value.device), value):
            return node
    with before.graph.inserting_after(inputs[-1]):
        new = before.graph.placeholder("c_rewritten")
    new.target = new.name
    new.meta = {"type": TensorType(tuple(value.shape), value.dtype), "depends_on_images": False, "constant": value}
    return new


def value_of(value: Any) -> Tensor | None:
    """The tensor that a node stands for, where the model's code or a rewrite fixes it; None for anything else."""
    return value.meta.get("constant") if isinstance(value, fx.Node) else None


def resolve(graph: fx.Graph, symbol: sympy.Expr, number: int) -> None:
    """Put a number in the place of a size that torch.export could not know, in all types of ``graph``."""
    for node in graph.nodes:
        if "type" in node.meta:
            node.meta["type"] = _resolved(node.meta["type"], symbol, number)


def _resolved(kind: Any, symbol: sympy.Expr, number: int) -> Any:
    """A type, as `type_of` gives it, with ``number`` in the place of ``symbol``."""
    if isinstance(kind, TensorType):
        return TensorType(tuple(_resolved(size, symbol, number) for size in kind.shape), kind.dtype)
    if isinstance(kind, tuple):
        return tuple(_resolved(item, symbol, number) for item in kind)
    if not isinstance(kind, sympy.Expr):
        return kind
    expression = kind.subs(symbol, number)
    return int(expression) if expression.is_Integer else expression


def become(node: fx.Node, target: Callable[..., Any], *args: Any) -> None:
    """Make ``node`` another call of equal value."""
    node.target, node.args, node.kwargs = target, args, {}


def give_way(node: fx.Node, value: fx.Node) -> None:
    """Let the readers of ``node`` read ``value``, which is equal, and erase it.

    What modules put out as ``node`` they then put out as ``value``.
    """
    if node.meta.get(PUTS_OUT):
        value.meta[PUTS_OUT] = [*value.meta.get(PUTS_OUT, ()), *node.meta[PUTS_OUT]]
    node.replace_all_uses_with(value)
    node.graph.erase_node(node)


def no_signal(node: fx.Node) -> None:
    """Say that no signal goes through ``node`` any more, nor through what is computed of such values alone."""
    node.meta["depends_on_images"] = False
    for user in node.users:
        if (
            user.op == "call_function"
            and depends_on_images(user)
            and not any(map(depends_on_images, user.all_input_nodes))
        ):
            no_signal(user)


def erase_dead(graph: fx.Graph) -> None:
    """Erase calls, and constants, that nobody reads."""
    for node in reversed(list(graph.nodes)):
        if not node.users and (node.op == "call_function" or "constant" in node.meta):
            graph.erase_node(node)


def erase(node: fx.Node) -> None:
    """Erase a call that returns its first argument."""
    give_way(node, node.args[0])


def broadcast(before: fx.Node, x: fx.Node, shape: list[int]) -> fx.Node:
    """``x`` repeated to ``shape``, which has -1 for the batch size."""
    kind = kind_of(x)
    aligned = [1] * (len(shape) - kind.rank) + kind.free_batch
    if kind.rank < len(shape):
        x = insert(before, aten.reshape.default, x, aligned)
    if aligned == shape:
        return x
    return insert(before, aten.expand.default, x, shape)


def like(before: fx.Node, x: fx.Node, other: fx.Node) -> fx.Node:
    """``x`` repeated to the shape of ``other``, for every image if it is a constant."""
    if kind_of(x).batch_dim is None and kind_of(other).batch_dim is not None:
        x = insert(before, aten.add.Tensor, insert(before, aten.zeros_like.default, other), x)
    return broadcast(before, x, kind_of(other).free_batch)


def per_dimension(value: int | Sequence[int], dims: int) -> list[int]:
    """A setting of ``dims`` spatial dimensions, given once for all or for each."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def sorted_anew(node: fx.Node, split: list[int], order: list[int]) -> None:
    """Reshape, permutation, reshape."""
    parts = insert(node, aten.reshape.default, node.args[0], split)
    become(node, aten.reshape.default, insert(node, aten.permute.default, parts, order), kind_of(node).free_batch)
