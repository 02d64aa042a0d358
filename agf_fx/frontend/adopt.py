"""The exported program's graph as ours: images first, then weights and constants, with our metadata."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from agf_fx.errors import CaptureError
from agf_fx.frontend.outputs import chosen, own_path
from agf_fx.frontend.tracing import origin
from agf_fx.ir.graph import CanonicalGraph, Signature, tensor_at
from agf_fx.ir.types import BATCH, type_of
from agf_fx.ir.vocabulary import CREATION, OVERWRITING, SIGNAL_FREE, depends_on_images


def adopt(program: ExportedProgram, model: nn.Module) -> CanonicalGraph:
    """Copy the program's graph, still in its own spelling.

    Raises:
        CaptureError: the model takes or returns more than one tensor, or fixes its batch size.
    """
    name = type(model).__name__
    inputs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    images = [n for n, spec in inputs.items() if spec.kind is InputKind.USER_INPUT]
    if len(images) != 1:
        raise CaptureError(f"{name}.forward takes {len(images)} tensors; agf-fx explains models of one image batch.")
    logits = _logits(program, name)
    batch = _batch_symbol(program, images[0])
    constants = _constants(program, model)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    weights: dict[str, str] = {}
    kept: dict[str, Tensor] = {}
    needed = [node for node in program.graph.nodes if node.name == images[0] or _is_input(node, inputs, constants)]
    for node in sorted(needed, key=lambda node: node.name != images[0]):
        copies[node] = _placeholder(graph, node, batch, node.name == images[0])
        if node in constants:
            kept[copies[node].name] = constants[node]
        elif node.name != images[0]:
            weights[copies[node].name] = own_path(inputs[node.name].target)
    for node in program.graph.nodes:
        if node.op == "call_function" and node not in constants:
            copies[node] = _call(graph, node, copies, batch)
    graph.output(copies[logits])
    classes = {path: type(module).__name__ for path, module in model.named_modules(remove_duplicate=False)}
    called = {node.meta["module"] for node in copies.values() if node.op == "call_function"}
    around = {path[:end] for path in called for end, sign in enumerate(f"{path}.") if sign == "."} | {""}
    modules = {path: classes[path] for path in sorted(around) if path in classes}
    return CanonicalGraph(name, graph, Signature(weights, kept), modules=modules)


def _logits(program: ExportedProgram, name: str) -> fx.Node:
    """The node of the program's output, which must be one tensor (N, classes), or (N, classes, *positions)."""
    every = zip(program.graph.output_node().args[0], program.graph_signature.output_specs, strict=True)
    outputs = [node for node, spec in every if spec.kind is OutputKind.USER_OUTPUT]  # the others: what was written to
    values = [node.meta.get("val") if isinstance(node, fx.Node) else node for node in outputs]
    value = chosen(pytree.tree_unflatten(values, program.call_spec.out_spec), None, name)
    if value.dim() < 2 or isinstance(value.shape[0], int):
        shape = ", ".join(str(size) if isinstance(size, int) else "N" for size in value.shape)
        raise CaptureError(
            f"the output of {name} has the shape ({shape}), and logits have the shape (N, classes), or "
            "(N, classes, *positions). Arrange it with output=..., a function of what the model returns."
        )
    return outputs[0]


def _constants(program: ExportedProgram, model: nn.Module) -> dict[fx.Node, Any]:
    """The value of every node that depends on neither images nor the model's tensors: created by forward() itself."""
    values: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            path = next(spec.target for spec in program.graph_signature.input_specs if spec.arg.name == node.name)
            if path is not None and tensor_at(model, own_path(path)) is None:
                values[node] = program.state_dict.get(path, program.constants.get(path)).detach().clone()
        elif node.op == "call_function" and all(_known(source, node, values) for source in node.all_input_nodes):
            given = {source: values[source] if source in values else _like(source) for source in node.all_input_nodes}
            args, kwargs = fx.map_arg((node.args, node.kwargs), given.__getitem__)
            values[node] = node.target(*args, **kwargs)
    return values


def _known(source: fx.Node, reader: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Whether the value of ``reader`` can be computed, as far as ``source`` goes."""
    fixed = isinstance(reader.meta.get("val"), Tensor) and all(
        isinstance(size, int) for size in reader.meta["val"].shape
    )
    return source in values or (reader.target in CREATION and isinstance(source.meta.get("val"), Tensor) and fixed)


def _like(source: fx.Node) -> Tensor:
    """A stand-in of the dtype, device and shape of ``source``, which a creating operation does not read."""
    value = source.meta["val"]
    return torch.empty(
        [size if isinstance(size, int) else 1 for size in value.shape], dtype=value.dtype, device=value.device
    )


def _is_input(node: fx.Node, inputs: dict[str, Any], constants: dict[fx.Node, Any]) -> bool:
    """Whether the adopted graph needs ``node`` as an input: a weight, or a constant that a call reads."""
    if node in constants:
        return isinstance(constants[node], Tensor) and any(user not in constants for user in node.users)
    return node.op == "placeholder" and bool(node.users) and inputs[node.name].target is not None


def _batch_symbol(program: ExportedProgram, images: str) -> sympy.Expr:
    node = next(node for node in program.graph.nodes if node.name == images)
    size = node.meta["val"].shape[0]
    if isinstance(size, int):
        raise CaptureError("the model fixes its batch size; replace the fixed number by x.shape[0] or -1.")
    return size.node.expr


def _placeholder(graph: fx.Graph, node: fx.Node, batch: sympy.Expr, is_images: bool) -> fx.Node:
    kind, _, path = node.name.partition("_model_")  # "p_model_conv_weight" is a parameter, "b_..." a buffer
    name = f"{kind}_{path}" if path and len(kind) == 1 else node.name
    name = name if node.op == "placeholder" else f"c_{node.name}"
    copied = graph.placeholder(name)
    copied.meta = {"type": type_of(node.meta["val"], {batch: BATCH}), "depends_on_images": is_images}
    return copied


def _call(graph: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node], batch: sympy.Expr) -> fx.Node:
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        raise CaptureError(
            f"the model uses {node.target}, control flow or a call that is decided when it runs "
            f"({origin(node).get('source') or 'in forward()'}), which an explanation graph does not follow. "
            "Compute both cases and combine them with torch.where, or decide before the model is called."
        )
    copied = graph.node_copy(node, copies.__getitem__)
    copied.meta = {"type": type_of(node.meta.get("val"), {batch: BATCH})} | origin(node)
    sources = copied.args[1:2] if node.target in OVERWRITING else copied.all_input_nodes
    copied.meta["depends_on_images"] = node.target not in SIGNAL_FREE and any(map(depends_on_images, sources))
    return copied
