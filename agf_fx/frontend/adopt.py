"""The exported program's graph as ours: images first, then weights and constants, with our metadata."""

from __future__ import annotations

import sympy
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from agf_fx.errors import CaptureError
from agf_fx.frontend.tracing import origin
from agf_fx.ir.graph import CanonicalGraph, Signature, tensor_at
from agf_fx.ir.types import type_of


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
    outputs = program.graph.output_node().args[0]
    if len(outputs) != 1 or not isinstance(outputs[0], fx.Node) or program.call_spec.out_spec.num_children:
        raise CaptureError(f"{name} must return one tensor of logits; wrap it in a module that returns that tensor.")

    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    placeholders = [node for node in placeholders if node.users or node.name == images[0]]
    batch = _batch_symbol(program, images[0])
    for node in sorted(placeholders, key=lambda node: node.name != images[0]):
        copies[node] = _copy(graph, node, copies, batch)
    for node in program.graph.nodes:
        if node.op == "call_function":
            copies[node] = _copy(graph, node, copies, batch)
    graph.output(copies[outputs[0]])

    weights, constants = {}, {}
    for node in placeholders:
        path = inputs[node.name].target
        if path is None:
            continue  # the images
        if isinstance(tensor_at(model, path), Tensor):
            weights[copies[node].name] = path
        else:  # a tensor that forward() created
            value = program.state_dict.get(path, program.constants.get(path))
            constants[copies[node].name] = value.detach().clone()
    return CanonicalGraph(name, graph, Signature(weights, constants))


def _batch_symbol(program: ExportedProgram, images: str) -> sympy.Expr:
    node = next(node for node in program.graph.nodes if node.name == images)
    size = node.meta["val"].shape[0]
    if isinstance(size, int):
        raise CaptureError("the model fixes its batch size; replace the fixed number by x.shape[0] or -1.")
    return size.node.expr


def _copy(graph: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node], batch: sympy.Expr) -> fx.Node:
    copied = graph.node_copy(node, copies.__getitem__)
    value = node.meta.get("val")
    copied.meta = {"type": type_of(value, batch)} | (origin(node) if node.op == "call_function" else {})
    is_images = not copies  # the images are the first node
    copied.meta["depends_on_images"] = is_images or any(n.meta["depends_on_images"] for n in copied.all_input_nodes)
    return copied
