"""Heads: the last parametrised layers on the way to the logits; and the tail behind them."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.errors import CaptureError
from agf_fx.ir.facts import mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import is_parametrised, signals

aten = torch.ops.aten


def mark_heads(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark ``head`` and ``tail``, in networks in which they can be told apart; see `check_heads`.

    Raises:
        CaptureError: the logits have no derivative.
    """
    if not canonical.logits.meta["depends_on_images"]:
        raise CaptureError(
            f"the logits of {canonical.name} depend on the images through steps alone (sign, a comparison, rounding), "
            "whose derivative is 0, so there is nothing to explain. Put functions with a derivative in their place."
        )
    heads, tail = _last_layers(canonical)
    if not _mixed(canonical, heads, tail):
        for head in heads:
            mark(head, head=True)
        for node in tail if heads else ():
            mark(node, tail=True)
    return canonical


def check_heads(canonical: CanonicalGraph) -> CanonicalGraph:
    """Refuse networks without heads, for methods whose relevance starts there.

    Raises:
        CaptureError: no parametrised layer, or one head feeds another (the logits mix layers of several depths).
    """
    heads, tail = _last_layers(canonical)
    if not heads:
        raise CaptureError(f"{canonical.name} has no convolution or linear layer between images and logits.")
    mixed = _mixed(canonical, heads, tail)
    if mixed:
        raise CaptureError(
            f"the logits of {canonical.name} mix layers of several depths (%{', %'.join(sorted(mixed)[:5])} also feed "
            "the last layers), so there is no head to start from. Explain a part of the model with one head."
        )
    return canonical


def _last_layers(canonical: CanonicalGraph) -> tuple[list[fx.Node], set[fx.Node]]:
    """The last parametrised layers on the way to the logits, and what lies behind them."""
    heads, tail, pending = [], set(), [canonical.logits]
    while pending:
        node = pending.pop()
        if is_parametrised(node):
            heads.append(node)
        elif node not in tail:
            tail.add(node)
            pending.extend(_followed(node) if node.op == "call_function" else [])
    return heads, tail


def _mixed(canonical: CanonicalGraph, heads: list[fx.Node], tail: set[fx.Node]) -> set[str]:
    """Heads, and calls of the tail, that lie before another head."""
    import networkx as nx  # takes longer to import than a cached graph to load

    dataflow = canonical.to_networkx()
    before = set().union(*(nx.ancestors(dataflow, head.name) for head in heads))
    return before & {node.name for node in (*heads, *tail)}


def _followed(node: fx.Node) -> list[fx.Node]:
    """The operands on the way to the heads: not a number by which all logits of an image are divided, or multiplied."""
    found = signals(node)
    if node.target is aten.div.Tensor and len(found) == 2 and found[1].target is aten.expand.default:
        return found[:1]
    if node.target is aten.mul.Tensor and len(found) == 2:
        alone = [signal for signal in found if signal.target is not aten.expand.default]
        return alone if len(alone) == 1 else found
    return found
