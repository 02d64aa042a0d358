"""Activations written by hand: x ⊙ g(x), as x · sigmoid(x), where g is applied to every entry."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.ir.facts import facts
from agf_fx.ir.vocabulary import Family, depends_on_images, family_of, operands, signals

aten = torch.ops.aten

_OF_SEVERAL_ENTRIES = (aten.layer_norm.default, aten.group_norm.default, aten.rms_norm.default)


def passes_through(node: fx.Node) -> bool:
    """Whether a call on the signal hands all relevance on where it is: by its family, or as an activation by hand.

    Gates must have been marked.
    """
    return family_of(node) is Family.PASS_THROUGH or _is_activation(node)


def _is_activation(node: fx.Node) -> bool:
    """Whether the call is a product, or quotient, of x and a gate that is a function of the entries of x."""
    if facts(node).gate is None or node.target not in (aten.mul.Tensor, aten.div.Tensor):
        return False
    gates = [operand for operand in signals(node) if operand.name == facts(node).gate]
    others = [operand for operand in operands(node) if operand not in gates]
    if not gates or len(others) != 1 or not depends_on_images(others[0]):
        return False
    return is_function_of(gates[0], others[0])


def is_function_of(value: fx.Node, x: fx.Node) -> bool:
    """Whether every entry of ``value`` is a function of the entry of ``x`` at its place."""
    return _is_function_of(value, _before(x), {})


def _before(x: fx.Node) -> set[fx.Node]:
    """x, and what it is a function of, entry by entry."""
    found = {x}
    while x.op == "call_function" and _is_by_entry(x) and len(signals(x)) == 1:
        x = signals(x)[0]
        found.add(x)
    return found


def _is_function_of(value: fx.Node, known: set[fx.Node], seen: dict[fx.Node, bool]) -> bool:
    if value in known:
        return True
    if value not in seen:
        by_entry = value.op == "call_function" and _is_by_entry(value)
        seen[value] = by_entry and all(_is_function_of(signal, known, seen) for signal in signals(value))
    return seen[value]


def _is_by_entry(call: fx.Node) -> bool:
    """Whether an entry of the result depends on the entry at its place, of each signal, alone."""
    if call.target in _OF_SEVERAL_ENTRIES or call.target is aten.matmul.default:
        return False
    by_entry = (Family.PASS_THROUGH, Family.MERGE, Family.PRODUCT, Family.JOINT)
    return family_of(call) in by_entry or call.target in (aten.relu.default, aten.logaddexp.default)
