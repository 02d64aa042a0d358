"""What a graph promises at each stage, checked. A failure is a bug in a pass or a rule, or a model we must refuse."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from agf_fx.errors import VerifyError
from agf_fx.ir import text
from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.ir.liveness import VIEWS, owners
from agf_fx.ir.operations import BY_INDICES, IN_PLACE, INDEXED_POOLINGS
from agf_fx.ir.types import TARGETS, TensorType, carried_type
from agf_fx.ir.vocabulary import KEYWORDS, op_of, signals


def verify_canonical(canonical: CanonicalGraph) -> None:
    """Check a canonical graph: well-formed, known operations, typed, batched signals, one (N, classes) output.

    Raises:
        VerifyError: naming the node and the lines around it.
    """
    graph = canonical.graph
    graph.lint()
    inputs = {node.name for node in graph.nodes if node.op == "placeholder"} - {canonical.images.name}
    known = set(canonical.signature.weights) | set(canonical.signature.constants)
    if inputs != known:
        raise VerifyError(f"graph inputs without a source, or sources without an input: {sorted(inputs ^ known)}")
    for node in graph.nodes:
        _check(node.op in ("placeholder", "call_function", "output"), graph, node, "has no place in this graph")
        if node.op == "call_function":
            _check("type" in node.meta, graph, node, "has no type")
            if node.meta["depends_on_images"]:
                _check_signal(graph, node)
    logits = canonical.logits
    dense = logits.meta["type"].rank >= 2 and logits.meta["type"].batched
    _check(dense, graph, logits, "is not (N, classes) or (N, classes, *positions)")


def _check_signal(graph: fx.Graph, node: fx.Node) -> None:
    _check(op_of(node) is not None, graph, node, "is not an operation of the vocabulary")
    known = KEYWORDS.get(node.target, set())
    allowed = set(node.kwargs) <= known or facts(node).captured_vjp
    _check(bool(allowed), graph, node, "has keyword arguments; canonical calls are positional")
    _check(bool(signals(node)), graph, node, "has no operand computed from the images")
    if isinstance(node.meta["type"], TensorType):
        _check(node.meta["type"].batch_dim is not None, graph, node, "is computed from the images and is not batched")


def verify_explanation(explanation: ExplanationGraph) -> None:
    """Check an explanation graph: well-formed, tensor operations only, streams shaped like their tensors.

    Raises:
        VerifyError: naming the node and the lines around it.
    """
    graph = explanation.graph
    graph.lint()
    explanation.infer_types()
    types = {node.name: carried_type(node) for node in explanation.canonical.graph.nodes if "type" in node.meta}
    for node in graph.nodes:
        if node.op == "call_function":
            operation = isinstance(node.target, torch._ops.OpOverload) or node.target is operator.getitem
            _check(operation, graph, node, "is not a tensor operation")
            _check("stream" in node.meta, graph, node, "belongs to no stream")
        for name in node.meta.get("stream_of", ()):
            same = node.meta["type"].shape == (TARGETS, *types[name].shape)
            _check(same, graph, node, f"is the {node.meta['stream']} of %{name}, whose type is {types[name]}")
    maps, logits, *_ = graph.output_node().args[0]
    _check(
        maps.meta["type"].shape[0] == logits.meta["type"].shape[0],
        graph,
        maps,
        "is not batched like the logits",
    )


def verify_memory(graph: fx.Graph, forms: Mapping[fx.Node, Any], *, in_place: bool = False) -> None:
    """Check that nothing is written but values that the graph made itself and reads no more.

    Args:
        graph: an explanation graph, its preparation, or a canonical graph.
        forms: of its values, from `agf_fx.ir.dry_run`.
        in_place: whether operations in place have a place in this graph at all.

    Raises:
        VerifyError: naming the node and the lines around it.
    """
    owner = owners(graph)
    position = {node: place for place, node in enumerate(graph.nodes)}
    written: dict[fx.Node, int] = {}  # the last write to a memory
    for node in position:
        sources = node.all_input_nodes
        for source in sources if written else ():
            fresh = position[source] >= written.get(owner[source], 0)
            if not fresh:
                _check(False, graph, node, f"reads %{source.name}, which is overwritten")
        if node.op == "call_function" and _mutates(node):
            _check(in_place and node.target in _WRITERS, graph, node, "has no right to write")
            memory = owner[node.args[0]]
            alone = sum(owner[source] is memory for source in sources) == 1
            own = memory.op == "call_function" and alone and not _repeats(node.args[0], memory)
            _check(own, graph, node, "writes what is not its own")
            written[memory] = position[node]
        if node.target in BY_INDICES:
            pooled = _pooled(node.args[-1])
            inside = pooled is not None and _plane(forms[pooled]) == _plane(forms[node.args[1]])
            inside = inside and forms[node.args[0]].shape == forms[node.args[-1]].shape
            _check(inside, graph, node, "reads indices that no pooling of such maps has found")


_WRITERS = frozenset(IN_PLACE.values())
_RESHAPES = VIEWS | {torch.ops.aten.contiguous.default}


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _repeats(view: fx.Node, memory: fx.Node) -> bool:
    """Whether entries of ``view`` may share a place in ``memory``."""
    while view is not memory:
        if view.target is torch.ops.aten.expand.default:
            return True
        view = view.args[0]
    return False


def _pooled(indices: fx.Node) -> fx.Node | None:
    """What was pooled, where indices are those of a pooling, seen in another shape."""
    while indices.op == "call_function" and indices.target in _RESHAPES:
        source = indices.args[0]
        if indices.target is operator.getitem and source.target in INDEXED_POOLINGS:
            return source.args[0] if indices.args[1] == 1 else None
        indices = source
    return None


def _plane(form: Any) -> tuple[int, ...]:
    """What indices count in: all dimensions behind batch and channels."""
    return form.shape[2:]


def _check(holds: bool, graph: fx.Graph, node: fx.Node, complaint: str) -> None:
    if not holds:
        lines = text.excerpt(graph, node)
        raise VerifyError(f"%{node.name} {complaint} (type {node.meta.get('type')}):\n{lines}")
