"""One spelling per operation: rewrites on the exported graph, then refusal of what has no rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import fx

from agf_fx.frontend.rewrites import REWRITES
from agf_fx.frontend.rewrites.editing import erase_dead
from agf_fx.frontend.spellings import spell_alike
from agf_fx.ir import text
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.layers import mark_outputs
from agf_fx.ir.refusal import refuse_unknown


def canonicalise(
    canonical: CanonicalGraph, teach: Callable[[CanonicalGraph, fx.Node], None] | None = None
) -> CanonicalGraph:
    """Rewrite ``canonical`` to the vocabulary; its graph is consumed.

    Args:
        canonical: as `adopt` leaves it.
        teach: called with every call in its last form, before what has no rule is refused.

    Raises:
        UnsupportedOpError: an operation on the images' signal has no rule.
    """
    graph = canonical.graph
    for node in graph.find_nodes(op="placeholder"):
        if node.name in canonical.signature.constants:
            node.meta["constant"] = canonical.signature.constants[node.name]
    mark_outputs(canonical)
    for node in canonical.calls:
        _make_positional(node)
        rewrite = REWRITES.get(node.target)
        if rewrite:
            rewrite(node)
    erase_dead(graph)
    spell_alike(graph)
    for node in canonical.calls:
        if teach:
            teach(canonical, node)
        refuse_unknown(canonical, node)
    return _renamed(canonical)


def _make_positional(node: fx.Node) -> None:
    """Write every argument by position, defaults included; keyword-only arguments stay for the rewrites.

    But for a dtype that is that of the operand anyway, as of a sum.
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    arguments, kwargs = list(node.args), dict(node.kwargs)
    for schema in node.target._schema.arguments[len(arguments) :]:
        if schema.kwarg_only:
            continue
        arguments.append(kwargs.pop(schema.name) if schema.name in kwargs else schema.default_value)
    first = arguments[0] if arguments else None
    if isinstance(first, fx.Node) and kwargs.get("dtype") == getattr(first.meta["type"], "dtype", Ellipsis):
        del kwargs["dtype"]
    node.args, node.kwargs = tuple(arguments), kwargs


def _renamed(canonical: CanonicalGraph) -> CanonicalGraph:
    """The graph with calls named after module and operation, ``layer1_0_conv1_conv2d``, and its constants."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in canonical.graph.nodes:
        args = fx.map_arg(node.args, copies.__getitem__)
        kwargs = fx.map_arg(node.kwargs, copies.__getitem__)
        copies[node] = graph.create_node(node.op, node.target, args, kwargs, name=_name(canonical, node))
        copies[node].meta = node.meta
    constants = {node.name: node.meta["constant"] for node in graph.nodes if "constant" in node.meta}
    return replace(canonical, graph=graph, signature=replace(canonical.signature, constants=constants))


def _name(canonical: CanonicalGraph, node: fx.Node) -> str:
    if node.op != "call_function":
        return "images" if node is canonical.images else node.name
    parts = [node.meta["module"].replace(".", "_"), text.op_name(node.target, short=True)]
    return "_".join(part for part in parts if part)
