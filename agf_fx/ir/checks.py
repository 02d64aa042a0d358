"""Whole graphs, checked before they are written to a file and after they were read from one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx

from agf_fx.ir.captured import CapturedVjp
from agf_fx.ir.dry_run import IMAGES, TARGETS, Form, WrongGraph, dry_run, form_of
from agf_fx.ir.facts import Facts, FlattenBoundary
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.ir.types import TensorType
from agf_fx.ir.verify import verify_canonical, verify_explanation, verify_memory
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS


def check_canonical(canonical: CanonicalGraph) -> None:
    """Check a canonical graph: verified, everything typed as it runs, nothing written, one operation at least.

    Raises:
        WrongGraph, VerifyError: what is wrong.
    """
    graph = canonical.graph
    _check_order(graph)
    for node in graph.nodes:
        _require(node.op == "output" or "type" in node.meta, f"%{node.name} has no type")
    verify_canonical(canonical)
    inputs = {node.name: form_of(node.meta["type"]) for node in graph.find_nodes(op="placeholder")}
    forms = dry_run(graph, inputs)
    verify_memory(graph, forms)
    _require(canonical.logits.op == "call_function", "the logits are an input")
    _require(all(isinstance(form, Form) for form in inputs.values()), "an input is no tensor")
    for name, constant in canonical.signature.constants.items():
        _require(inputs[name] == Form(tuple(constant.shape), constant.dtype), f"the constant {name} has another type")
    names = {node.name for node in graph.nodes}
    for node in canonical.calls:
        _check_facts(node.meta["facts"], names) if "facts" in node.meta else None
        if node.target in (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS):
            _check_geometry(node)
    if "facts" in canonical.images.meta:
        _check_facts(canonical.images.meta["facts"], names)


def _check_geometry(convolution: fx.Node) -> None:
    """A stride, a padding and so on for every dimension: PyTorch also takes one for all of them, and rules do not."""
    dims = len(convolution.args[1].meta["type"].shape) - 2
    settings = [value for value in convolution.args if isinstance(value, list | tuple)]
    _require(all(len(value) == dims for value in settings), f"%{convolution.name} has settings of other dimensions")


def check_explanation(explanation: ExplanationGraph) -> None:
    """Check an explanation graph and what prepares it: as it runs, and by the types of its canonical graph.

    Raises:
        WrongGraph, VerifyError: what is wrong.
    """
    canonical, graph = explanation.canonical, explanation.graph
    known = _inputs(canonical)
    images, *weights = known
    if explanation.prepare is not None:
        prepare = explanation.prepare.graph
        _check_order(prepare)
        _require(_placeholders(prepare) == weights, "what is prepared from are not the weights")
        forms = dry_run(prepare, known)
        verify_memory(prepare, forms)
        results = _results(prepare)
        _require(len(results) == len(explanation.prepared), "another number of prepared constants")
        known |= zip(explanation.prepared, (forms[node] for node in results), strict=True)
    _check_order(graph)
    _require(_placeholders(graph)[:2] == [images, "target"], "the inputs are not images and target")
    known["target"] = Form((IMAGES, TARGETS), torch.int64)
    forms = dry_run(graph, known)
    verify_memory(graph, forms, in_place=True)
    _check_outputs(explanation, forms)
    _check_names(explanation)
    if all("type" in node.meta for node in graph.nodes if node.op != "output"):
        verify_explanation(explanation)


def check_captured(captured: CapturedVjp) -> None:
    """Check a captured product: everything typed as it runs, nothing written, a gradient for every operand.

    Raises:
        WrongGraph, VerifyError: what is wrong.
    """
    graph = captured.graph
    _check_order(graph)
    for node in graph.nodes:
        _require(node.op == "output" or {"type", "per_target"} <= node.meta.keys(), f"%{node.name} has no type")
    inputs = {node.name: form_of(node.meta["type"]) for node in graph.find_nodes(op="placeholder")}
    verify_memory(graph, dry_run(graph, inputs))
    results = graph.output_node().args[0]
    _require(isinstance(results, tuple) and len(results) == len(captured.operands), "another number of gradients")
    _require(all(node is None or isinstance(node, fx.Node) for node in results), "a gradient that is no value")
    _require(all(type(place) is int and place >= 0 for place in captured.operands), "an operand that is none")
    _require(isinstance(captured.entrywise, bool) and bool(inputs), "a captured product that is none")


def _inputs(canonical: CanonicalGraph) -> dict[str, Any]:
    """The forms of images, weights and constants."""
    return {node.name: form_of(node.meta["type"]) for node in canonical.graph.find_nodes(op="placeholder")}


def _placeholders(graph: fx.Graph) -> list[str]:
    return [node.name for node in graph.find_nodes(op="placeholder")]


def _check_order(graph: fx.Graph) -> None:
    """Inputs first, calls, one output; each name once."""
    order = {"placeholder": 0, "call_function": 1, "output": 2}
    ranks = [order.get(node.op, -1) for node in graph.nodes]
    _require(bool(ranks) and ranks == sorted(ranks) and min(ranks) == 0, "nodes out of order")
    _require(ranks.count(2) == 1, "no output, or several")
    _require(len({node.name for node in graph.nodes}) == len(ranks), "a name that is used twice")


def _results(graph: fx.Graph) -> list[fx.Node]:
    results = graph.output_node().args[0]
    nodes = isinstance(results, tuple) and all(isinstance(node, fx.Node) for node in results)
    _require(nodes, "an output that is no tuple of values")
    return list(results)


def _check_outputs(explanation: ExplanationGraph, forms: Mapping[fx.Node, Any]) -> None:
    results = _results(explanation.graph)
    _require(len(results) == 2 and len(set(results)) == 2, f"{len(results)} outputs in the place of maps and logits")
    maps, logits = (forms[node] for node in results)
    _require(all(node.op == "call_function" for node in results), "an output that is an input")
    wanted = form_of(explanation.canonical.logits.meta["type"])
    _require(logits == wanted, f"the logits are {logits} and not {wanted}")
    shaped = isinstance(maps, Form) and maps.shape[:2] == (IMAGES, TARGETS) and maps.dtype.is_floating_point
    _require(shaped, f"the maps are {maps}")


def _check_names(explanation: ExplanationGraph) -> None:
    """Labels that name canonical values name some."""
    names = {node.name for node in explanation.canonical.graph.nodes}
    for node in explanation.graph.nodes:
        if node.op == "call_function":
            _require(isinstance(node.meta.get("stream"), str), f"%{node.name} belongs to no stream")
        for name in (*node.meta.get("stream_of", ()), node.meta.get("value_of")):
            _require(name is None or name in names, f"%{node.name} belongs to a value that there is not")


def _check_facts(facts: Facts, names: Iterable[str]) -> None:
    """Facts have the kinds of values that analyses write."""
    for name in (
        "input_layer",
        "nonnegative_input",
        "head",
        "tail",
        "open_merge",
        "in_region",
        "feeds_merge",
        "pointwise",
    ):
        _require(isinstance(getattr(facts, name), bool), f"the fact {name} is none")
    for name in ("residual_merge", "gate", "attention"):
        _require(getattr(facts, name) is None or getattr(facts, name) in names, f"the fact {name} names no value")
    widths = [width for pair in facts.kernel_padding for width in pair]
    known = all(len(pair) == 2 for pair in facts.kernel_padding) and all(type(w) is int and w >= 0 for w in widths)
    _require(known, "padding of a kernel that is none")
    boundary, captured = facts.flatten_boundary, facts.captured_vjp
    _require(boundary is None or _is_boundary(boundary), "a flatten boundary that is none")
    _require(captured is None or isinstance(captured, CapturedVjp), "a captured product that is none")
    _require(facts.channel_dim is None or type(facts.channel_dim) is int, "a dimension that is none")


def _is_boundary(boundary: Any) -> bool:
    known = isinstance(boundary, FlattenBoundary) and type(boundary.channel_dim) is int
    return known and all(type(size) is int and size > 0 for size in boundary.shape)


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise WrongGraph(complaint)


def typed_like(kind: Any, tensor: torch.Tensor) -> bool:
    """Whether a type without symbols is that of a tensor; floating-point ones of any width are alike."""
    same = isinstance(kind, TensorType) and tuple(kind.shape) == tuple(tensor.shape)
    return same and (kind.dtype == tensor.dtype or (kind.dtype.is_floating_point and tensor.is_floating_point()))
