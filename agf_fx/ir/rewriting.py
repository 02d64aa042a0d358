"""What passes use to change an explanation graph without losing where its nodes come from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

_NUMBERING = re.compile(r"(?<=\w)_\d+$")  # what fx appends to a name that is taken

LABELS = ("stream", "rule", "layer", "site", "symbol", "equation")


def is_call(value: Any, *targets: Callable[..., Any]) -> bool:
    """Whether ``value`` is a node that calls one of ``targets``, or anything if none is given."""
    return isinstance(value, fx.Node) and value.op == "call_function" and (not targets or value.target in targets)


def insert_before(node: fx.Node, target: Callable[..., Any], *args: Any) -> fx.Node:
    """A new call in front of ``node``, labelled like it."""
    with node.graph.inserting_before(node):
        stem = _NUMBERING.sub("", node.name)
        new = node.graph.create_node("call_function", target, args, {}, name=stem)
    new.meta.update({label: node.meta[label] for label in LABELS if label in node.meta})
    return new


def substitute(node: fx.Node, value: fx.Node) -> None:
    """Let everybody who reads ``node`` read ``value``, which computes the same, and erase ``node``."""
    streams = node.meta.get("stream_of", ())
    if streams:
        value.meta.setdefault("stream_of", []).extend(streams)
    if "value_of" in node.meta:
        value.meta.setdefault("value_of", node.meta["value_of"])
    node.replace_all_uses_with(value)
    node.graph.erase_node(node)


def weights_only(graph: fx.Graph) -> set[fx.Node]:
    """The calls that depend on neither images nor target, but on weights and constants alone."""
    images, target, *_ = (node for node in graph.nodes if node.op == "placeholder")
    varying = {images, target}
    fixed = set()
    for node in graph.nodes:
        if node.op == "call_function":
            (varying if any(source in varying for source in node.all_input_nodes) else fixed).add(node)
    return fixed


def is_stabilised(value: Any) -> bool:
    """Whether ``value`` is d + (ε - ε [d ≠ 0]), which numerics' ``stabilised`` makes of d = b + ε."""
    if not is_call(value, aten.add.Tensor) or not is_call(value.args[1], aten.add.Scalar):
        return False
    shifted, guard = value.args[0], value.args[1].args[0]
    return (
        is_call(shifted, aten.add.Scalar) and is_call(guard, aten.mul.Scalar) and nonzero_of(guard.args[0]) is shifted
    )


def nonzero_of(value: Any) -> fx.Node | None:
    """x, where ``value`` is the mask [x ≠ 0], written |sign x|, or sign x of a nonnegative x."""
    if is_call(value, aten.abs.default):
        value = value.args[0]
    return value.args[0] if is_call(value, aten.sign.default) else None
