"""Common subexpressions: an operation that repeats an earlier one on the same values."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import fx

from agf_fx.ir.graph import ExplanationGraph


def eliminate_common_subexpressions(explanation: ExplanationGraph) -> ExplanationGraph:
    """Let readers of a repeated operation read the first one, and erase the others.

    Every operation of an explanation graph is a pure function of its arguments, so outputs keep their bits. The first
    one keeps its labels: |W| of a convolution is labelled C, and A reads it.
    """
    first: dict[Hashable, fx.Node] = {}
    for node in list(explanation.graph.nodes):
        if node.op != "call_function":
            continue
        earlier = first.setdefault(_key(node), node)
        if earlier is not node:
            if "stream_of" in node.meta:
                earlier.meta.setdefault("stream_of", []).extend(node.meta["stream_of"])
            node.replace_all_uses_with(earlier)
            explanation.graph.erase_node(node)
    return explanation


def _key(node: fx.Node) -> Hashable:
    return node.target, _frozen(node.args), _frozen(dict(node.kwargs))


def _frozen(value: Any) -> Hashable:
    """A hashable stand-in that also tells 1 from 1.0 and True, which Python calls equal."""
    if isinstance(value, tuple | list):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((key, _frozen(item)) for key, item in sorted(value.items()))
    return type(value), value
