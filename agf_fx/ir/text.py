"""Deterministic text of graphs: what golden tests compare and error messages quote."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from agf_fx.ir.facts import facts

if TYPE_CHECKING:
    from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph


def op_name(target: Callable[..., Any] | str, short: bool = False) -> str:
    """Name of an operation: ``conv2d``, ``add.Tensor``, ``getitem``; ``short`` leaves library and overload out."""
    if isinstance(target, torch._ops.OpOverload):
        namespace, name = target._schema.name.split("::")
        if short:
            return name
        overload = "" if target._overloadname == "default" else f".{target._overloadname}"
        return f"{'' if namespace == 'aten' else namespace + '.'}{name}{overload}"
    if target is operator.getitem:
        return "getitem"
    return getattr(target, "__name__", str(target))


def call(node: fx.Node) -> str:
    """One node as text, ``%relu = relu(%conv1)``."""
    if node.op == "placeholder":
        return f"%{node.name} = input"
    if node.op == "output":
        return f"return {argument(node.args[0])}"
    arguments = [argument(a) for a in node.args] + [f"{k}={argument(v)}" for k, v in node.kwargs.items()]
    return f"%{node.name} = {op_name(node.target)}({', '.join(arguments)})"


def argument(value: Any) -> str:
    """An argument as text: nodes by name, containers and plain values as Python writes them."""
    if isinstance(value, fx.Node):
        return f"%{value.name}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(argument, value))}]"
    return repr(value)


def canonical_text(canonical: CanonicalGraph) -> str:
    """A canonical graph as aligned columns: call, type, module path, facts; weights and constants behind it."""
    title = f"canonical graph of {canonical.name}: {canonical.image_type} -> {canonical.logits.meta['type']}"
    weights = canonical.signature.weights
    pages: dict[bool, list[tuple[str, ...]]] = {False: [], True: []}
    for node in canonical.graph.nodes:
        row = call(node), _type_text(node.meta.get("type")), weights.get(node.name) or node.meta.get("module", "")
        pages[node.op == "placeholder" and node is not canonical.images].append((*row, str(facts(node))))
    columns = "node", "type", "module", "facts"
    first = _page(title, columns, pages[False])
    if not pages[True]:
        return first
    return "\n".join([first, _page(f"its {len(pages[True])} weights and constants", columns, pages[True])])


def explanation_text(explanation: ExplanationGraph) -> str:
    """An explanation graph as aligned columns: call, type, stream, rule, source layer, equation.

    Where weight-only work is hoisted, its graph comes first, as a page of its own.
    """
    canonical = explanation.canonical
    title = (
        f"explanation graph of {canonical.name} by {explanation.method}: "
        f"(images {canonical.image_type}, target i64[N, K]) -> (maps, logits), {len(explanation)} nodes"
    )
    pages = [_explanation_page(title, explanation.graph, canonical)]
    if explanation.prepare:
        nodes = explanation.prepare.graph.nodes
        title = f"prepared once per set of weights: weights -> prepared constants, {len(nodes)} nodes"
        pages.insert(0, _explanation_page(title, explanation.prepare.graph, canonical))
    return "\n".join(pages)


def _explanation_page(title: str, graph: fx.Graph, canonical: CanonicalGraph) -> str:
    rows = [
        (
            call(node),
            _type_text(node.meta.get("type")),
            node.meta.get("stream", ""),
            node.meta.get("rule", ""),
            canonical.signature.weights.get(node.name) or node.meta.get("layer", ""),
            node.meta.get("equation", ""),
        )
        for node in graph.nodes
    ]
    return _page(title, ("node", "type", "stream", "rule", "layer", "equation"), rows)


def excerpt(graph: fx.Graph, node: fx.Node, around: int = 2) -> str:
    """The lines around ``node``, its own marked, for error messages."""
    nodes = list(graph.nodes)
    position = nodes.index(node)
    window = nodes[max(0, position - around) : position + around + 1]
    return "\n".join(f"{'>>' if other is node else '  '} {call(other)}" for other in window)


def _type_text(kind: object) -> str:
    if isinstance(kind, tuple):
        return f"({', '.join(map(_type_text, kind))})"
    return "-" if kind is None else str(kind)


def _page(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [min(72, max(len(row[i]) for row in [header, *rows])) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    head = "  ".join(cell.ljust(width) for cell, width in zip(header, widths, strict=True)).rstrip()
    return "\n".join([f"# {title}", f"# {head}", *lines]) + "\n"
