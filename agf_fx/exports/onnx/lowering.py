"""From a graph of ATen operations to ONNX nodes, call by call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from agf_fx.errors import ExportError
from agf_fx.exports.onnx.operations import OPERATIONS
from agf_fx.exports.onnx.sizes import Type, infer_types
from agf_fx.exports.onnx.values import Inexpressible, Value, Writer
from agf_fx.exports.standalone import Standalone

INPUTS = ("images", "target")


def lower(explainer: Standalone, writer: Writer) -> tuple[list[Value], list[Value]]:
    """Write the nodes of an explainer.

    Args:
        explainer: a graph of ATen operations.
        writer: takes nodes and constants.

    Returns:
        Inputs and outputs.

    Raises:
        ExportError: an operation has no ONNX form.
    """
    module, graph = explainer.module, explainer.module.graph
    _settle_unknown(module)
    types = infer_types(module, explainer.images, explainer.target)
    inputs = graph.find_nodes(op="placeholder")
    values: dict[fx.Node, Any] = {
        node: writer.input(name, types[node]) for node, name in zip(inputs, INPUTS, strict=True)
    }
    for node in graph.nodes:
        if node.op in ("get_attr", "call_function"):
            values[node] = _typed(_lowered(module, node, values, types[node], writer), types[node])
    return [values[node] for node in inputs], [values[node] for node in graph.output_node().args[0]]


def _lowered(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any], kind: Any, writer: Writer) -> Any:
    writer.scope = node.name
    try:
        if node.op == "get_attr":
            return writer.constant(module.get_buffer(node.target), node.name)
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        return OPERATIONS[node.target](kind, *args, **kwargs)
    except Inexpressible as reason:
        raise _error(node, str(reason)) from reason


def _typed(value: Any, kind: Any) -> Any:
    """Values with the type of what they stand for, which is also noted for the file."""
    if isinstance(value, Value) and isinstance(kind, Type):
        value.writer.shapes[value.name] = kind
        return replace(value, kind=kind)
    return tuple(map(_typed, value, kind)) if isinstance(value, tuple) else value


def _settle_unknown(module: fx.GraphModule) -> None:
    """Compute what unknown operations make of weights alone, and refuse all others."""
    varies: set[fx.Node] = set(module.graph.find_nodes(op="placeholder"))
    for node in list(module.graph.nodes):
        if not varies.isdisjoint(node.all_input_nodes):
            varies.add(node)
        if node.op == "call_function" and node.target not in OPERATIONS:
            if node in varies:
                raise _error(node, "agf-fx knows no ONNX form of it")
            _settle(module, node, _computed(module, node))


def _settle(module: fx.GraphModule, node: fx.Node, value: Any) -> None:
    """Put a constant in the place of a node; of several results, in the place of each reader's."""
    if isinstance(value, Tensor):
        name = f"computed_{node.name}"
        module.register_buffer(name, value)
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(name))
    else:
        for reader in list(node.users):
            _settle(module, reader, value[reader.args[1]])
    module.graph.erase_node(node)


def _error(node: fx.Node, reason: str) -> ExportError:
    layer = node.meta.get("layer")
    where = f" in layer {layer!r}" if layer else ""
    return ExportError(
        f"{node.target}{where} cannot be written to an ONNX file: {reason}. Use another format, such as "
        '"export" or "torchscript", or write that part of the model with other operations.'
    )


def _computed(module: fx.GraphModule, node: fx.Node) -> Any:
    """The value of a node that depends on weights alone."""
    if node.op == "get_attr":
        return module.get_buffer(node.target)
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: _computed(module, source))
    with torch.no_grad():
        return node.target(*args, **kwargs)
