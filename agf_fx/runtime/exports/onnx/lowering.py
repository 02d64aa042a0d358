"""From a graph of ATen operations to ONNX nodes, call by call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from agf_fx.errors import ExportError
from agf_fx.runtime.exports.onnx.operations import OPERATIONS
from agf_fx.runtime.exports.onnx.sizes import Type, infer_types
from agf_fx.runtime.exports.onnx.values import Inexpressible, Value, Writer
from agf_fx.runtime.exports.standalone import Standalone

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
    graph = explainer.module.graph
    _refuse_unknown(graph)
    types = infer_types(explainer.module, explainer.images, explainer.target)
    inputs = graph.find_nodes(op="placeholder")
    values: dict[fx.Node, Any] = {
        node: writer.input(name, types[node]) for node, name in zip(inputs, INPUTS, strict=True)
    }
    for node in graph.nodes:
        if node.op == "get_attr":
            values[node] = writer.constant(explainer.module.get_buffer(node.target), node.name)
        elif node.op == "call_function":
            values[node] = _typed(_lowered(explainer.module, node, values, types[node], writer), types[node])
    return [values[node] for node in inputs], [values[node] for node in graph.output_node().args[0]]


def _lowered(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any], kind: Any, writer: Writer) -> Any:
    writer.scope = node.name
    try:
        if node.target not in OPERATIONS:
            return _constants(writer, _computed(module, node))
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


def _refuse_unknown(graph: fx.Graph) -> None:
    """Whatever depends on weights alone may be any operation: it is computed now."""
    varies: set[fx.Node] = set(graph.find_nodes(op="placeholder"))
    for node in graph.nodes:
        if node.op == "call_function" and not varies.isdisjoint(node.all_input_nodes):
            varies.add(node)
            if node.target not in OPERATIONS:
                raise _error(node, "agf-fx knows no ONNX form of it")


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


def _constants(writer: Writer, value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_constants(writer, item) for item in value)
    return writer.constant(value, writer.scope) if isinstance(value, Tensor) else value
