"""Graphs captured with a symbolic batch size, in a form that runs for any number of images and targets."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import fx
from torch.utils import _pytree as pytree

from agf_fx.frontend.calls import Unfit
from agf_fx.frontend.rewrites.editing import erase_dead
from agf_fx.ir.shape_rules import result_type
from agf_fx.ir.types import TensorType, typed

aten = torch.ops.aten

_RESHAPES = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)
_SAME = (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)
_CREATIONS = {
    aten.zeros.default: aten.new_zeros.default,
    aten.ones.default: aten.new_ones.default,
    aten.empty.memory_format: aten.new_empty.default,
    aten.full.default: aten.new_full.default,
    aten.scalar_tensor.default: aten.new_full.default,
}
_LIKE = {
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_empty.default,
    aten.new_full.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.empty_like.default,
    aten.full_like.default,
}


def free_of_batch(graph: fx.Graph) -> None:
    """No names for the same value, no number fixed at capture, dtype and device from arguments, arguments by position.

    Raises:
        Unfit: a size has no form, or samples meet.
    """
    for node in list(graph.nodes):
        if node.target in _SAME:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    erase_dead(graph)
    if graph.find_nodes(op="placeholder")[-1].meta["type"].batch_dim is None:
        raise Unfit("its derivative fixes the batch size.")
    for node in [node for node in graph.nodes if node.op == "call_function"]:
        if isinstance(node.meta["type"], TensorType | tuple):
            _write_out(graph, node)
    erase_dead(graph)
    for node in graph.nodes:
        if node.op == "call_function":
            _check(node)


def _write_out(graph: fx.Graph, node: fx.Node) -> None:
    """One call by position, on the dtype and device of what it reads, with sizes from tensors."""
    arguments, kwargs = _by_position(node)
    first = next(iter(graph.nodes))
    if node.target in _CREATIONS and node.meta["type"].dtype == first.meta["type"].dtype:
        if node.target is aten.scalar_tensor.default:
            arguments.insert(0, [])
        node.target, arguments, kwargs = _CREATIONS[node.target], [first, *arguments], {}
    if node.target in _LIKE and node.meta["type"].dtype == arguments[0].meta["type"].dtype:
        kwargs = {}
    if node.target in _RESHAPES and sum(_is_size(extent) for extent in arguments[1]) == 1:
        node.target = aten.reshape.default
        arguments[1] = [-1 if _is_size(extent) else extent for extent in arguments[1]]
    if node.target is aten.slice.Tensor:
        arguments = _slice(*arguments)
    node.args, node.kwargs = fx.map_arg((tuple(arguments), kwargs), lambda source: _sized(graph, node, source))


def _by_position(node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, by position where they may be, with defaults, and the others by keyword."""
    arguments, kwargs = list(node.args), dict(node.kwargs)
    if isinstance(node.target, torch._ops.OpOverload):
        for schema in node.target._schema.arguments[len(arguments) :]:
            if not schema.kwarg_only and (schema.name in kwargs or node.target not in _LIKE):
                arguments.append(kwargs.pop(schema.name, schema.default_value))
    return arguments, kwargs


def _slice(x: fx.Node, dim: int, start: Any, end: Any, step: int) -> list[Any]:
    """The arguments of a slice with explicit ends."""
    extent = x.meta["type"].shape[dim]
    if isinstance(extent, int) and isinstance(start, int | None) and isinstance(end, int | None):
        start, end, _ = slice(start, end).indices(extent)
    return [x, dim % x.meta["type"].rank, start, end, step]


def _is_size(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta["type"], sympy.Expr)


def _sized(graph: fx.Graph, reader: fx.Node, source: fx.Node) -> fx.Node:
    """``source``; if it is a size, the size of a tensor that has as many samples, and targets, as ``reader``."""
    if not _is_size(source):
        return source
    size = source.meta["type"]
    *tensors, gradient = graph.find_nodes(op="placeholder")
    for tensor in [gradient] if reader.meta["per_target"] else tensors:
        kind = tensor.meta["type"]
        if isinstance(kind, TensorType) and size in kind.shape:
            with graph.inserting_before(reader):
                extent = graph.call_function(aten.sym_size.int, (tensor, kind.shape.index(size)))
            extent.meta = {"type": size, "per_target": reader.meta["per_target"]}
            return extent
    raise Unfit(f"its derivative computes with the batch size ({size}).")


def _check(node: fx.Node) -> None:
    """Check that a call has a form for every number of samples, and the type that explanation graphs give it."""
    kind = node.meta["type"]
    numbers = [source for source in node.all_input_nodes if source.meta["type"] is None]
    if (
        kind is None
        or numbers
        or any(isinstance(x, torch.SymInt | torch.SymFloat) for x in pytree.tree_leaves(node.args))
    ):
        raise Unfit("its derivative computes with numbers that depend on values or on the batch size.")
    if node.meta["per_target"] and isinstance(kind, TensorType) and kind.batch_dim is None:
        raise Unfit("its derivative mixes the samples of a batch.")
    known = [typed(argument) for argument in node.args]
    try:
        predicted = result_type(node.target, known)
    except Exception as error:  # a rule of the table that does not know this use
        raise Unfit(f"its derivative uses {node.target} in an unusual way.") from error
    if predicted is not None and predicted != kind:
        raise Unfit(f"its derivative uses {node.target} in an unusual way ({predicted} is {kind}).")
