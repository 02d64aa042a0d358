"""Parts of a canonical graph as graphs of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from agf_fx.ir.graph import CanonicalGraph, tensor_at
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten


class Bypassed(Exception):
    """A value depends on the images by another way than through the start of a part.

    Attributes:
        node: where the other way begins.
    """

    def __init__(self, node: fx.Node) -> None:
        super().__init__(node.name)
        self.node = node


@dataclass(frozen=True)
class Part:
    """A part of a canonical graph, ``(value, *weights, *constants) -> value``.

    Attributes:
        module: runs it.
        inputs: the placeholders of the canonical graph that it takes after its first input, by name.
    """

    module: fx.GraphModule
    inputs: tuple[str, ...]

    def __call__(self, value: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """Run it on a value, with weights and constants by name."""
        return self.module(value, *(given[name] for name in self.inputs))


def cut(canonical: CanonicalGraph, start: fx.Node, end: fx.Node, shape: tuple[int, ...] | None = None) -> Part:
    """What computes ``end`` from ``start``, weights and constants.

    Args:
        canonical: the whole.
        start: a value whose first dimension is the batch.
        end: a value.
        shape: per sample, to which the input is reshaped first; None where it comes as ``start`` is.

    Raises:
        Bypassed: ``end`` depends on the images by another way, too.
    """
    wanted = _computing(end, start)
    graph = fx.Graph()
    first = graph.placeholder(start.name if start.op == "placeholder" else f"{start.name}_value")
    copies = {start: first}
    inputs = [node for node in canonical.graph.find_nodes(op="placeholder") if node in wanted and node is not start]
    if canonical.images in inputs:
        raise Bypassed(canonical.images)
    copies |= {node: graph.placeholder(node.name) for node in inputs}
    if shape is not None:
        copies[start] = graph.call_function(aten.reshape.default, (first, [-1, *shape]))
    _copy_calls(canonical, wanted, graph, copies)
    graph.output(copies[end])
    return Part(fx.GraphModule(nn.Module(), graph), tuple(node.name for node in inputs))


def truncated(canonical: CanonicalGraph, end: fx.Node, model: nn.Module) -> fx.GraphModule:
    """The model up to ``end``, as a module ``(images) -> value`` that holds the model's own parameters and buffers."""
    wanted = _computing(end, canonical.images)
    root, graph = nn.Module(), fx.Graph()
    copies = {canonical.images: graph.placeholder("images")}
    signature = canonical.signature
    for node in canonical.graph.find_nodes(op="placeholder"):
        if node is canonical.images or node not in wanted:
            continue
        path = signature.weights.get(node.name, f"constants.{node.name}")
        value = tensor_at(model, path) if node.name in signature.weights else signature.constants[node.name]
        _put(root, path, value)
        copies[node] = graph.get_attr(path)
    _copy_calls(canonical, wanted, graph, copies)
    graph.output(copies[end])
    return fx.GraphModule(root, graph, class_name=f"{canonical.name}Truncated").eval()


def _computing(end: fx.Node, start: fx.Node) -> set[fx.Node]:
    """``end`` and all that it is computed from, up to ``start``.

    Raises:
        Bypassed: the images are among it, where they are not ``start``.
    """
    found, pending = {start}, [end]
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        if _counts_images(node):  # a size, which `start` has as well
            continue
        pending += node.all_input_nodes
    return found


def _counts_images(node: fx.Node) -> bool:
    return node.target is aten.sym_size.int and node.args[1] == 0 and depends_on_images(node.args[0])


def _copy_calls(
    canonical: CanonicalGraph, wanted: set[fx.Node], graph: fx.Graph, copies: dict[fx.Node, fx.Node]
) -> None:
    first = next(iter(copies.values()))
    for node in canonical.calls:
        if node in wanted and node not in copies:
            if _counts_images(node):
                copies[node] = graph.call_function(node.target, (first, 0))
            else:
                copies[node] = graph.node_copy(node, copies.__getitem__)
                copies[node].meta = {}


def _put(root: nn.Module, path: str, value: Tensor) -> None:
    """Register a parameter or buffer at a dotted path."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root._modules[parent]
    if isinstance(value, nn.Parameter):
        root.register_parameter(name, value)
    else:
        root.register_buffer(name, value)
