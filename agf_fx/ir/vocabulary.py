"""The closed vocabulary of canonical operations, sorted into families.

A family says what kind of map an operation is; the rule tables give most families one rule. An operation that is
not listed here is refused before anything is emitted.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten


class Family(StrEnum):
    """What kind of map an operation is."""

    CONVOLUTION = "convolution"  # linear in x, weights shared over positions
    LINEAR = "linear"  # linear in x
    PROPORTIONAL = "proportional"  # positively homogeneous: relevance goes by x ⊙ fᵀ(Φ / f(x))
    SELECTION = "selection"  # proportional, and every output entry is an input entry or 0
    PASS_THROUGH = "pass-through"  # elementwise affine per channel, or identity: relevance unchanged
    DATA_MOVEMENT = "data movement"  # every output entry is one input entry
    MERGE = "merge"  # sum or difference of two signals
    TAIL = "tail"  # no relevance rule: allowed behind the head, where only the gradient passes


@dataclass(frozen=True)
class Op:
    """One operation of the vocabulary.

    Attributes:
        family: what kind of map it is.
        operands: positions of the arguments that may carry relevance; an argument may be a list of tensors.
    """

    family: Family
    operands: tuple[int, ...] = (0,)


VOCABULARY: dict[Callable[..., Any], Op] = {
    aten.conv2d.default: Op(Family.CONVOLUTION),
    aten.linear.default: Op(Family.LINEAR),
    # Proportional: f(tx) = t f(x) for t > 0.
    aten.relu.default: Op(Family.SELECTION),
    aten.max_pool2d_with_indices.default: Op(Family.SELECTION),
    aten.avg_pool2d.default: Op(Family.PROPORTIONAL),
    aten.adaptive_avg_pool2d.default: Op(Family.PROPORTIONAL),
    aten.mean.dim: Op(Family.PROPORTIONAL),
    # Pass-through. A product or quotient of two signals is a gate, for which there is no rule here.
    aten.batch_norm.default: Op(Family.PASS_THROUGH),
    aten.mul.Tensor: Op(Family.PASS_THROUGH, (0, 1)),
    aten.div.Tensor: Op(Family.PASS_THROUGH, (0, 1)),
    operator.getitem: Op(Family.PASS_THROUGH),
    # Data movement.
    aten.reshape.default: Op(Family.DATA_MOVEMENT),
    aten.permute.default: Op(Family.DATA_MOVEMENT),
    aten.cat.default: Op(Family.DATA_MOVEMENT),
    # Merges; with a constant as one side they are pass-through, see `family_of`.
    aten.add.Tensor: Op(Family.MERGE, (0, 1)),
    aten.sub.Tensor: Op(Family.MERGE, (0, 1)),
    # Behind the head only.
    aten.sigmoid.default: Op(Family.TAIL),
    aten.softmax.int: Op(Family.TAIL),
    aten.log_softmax.int: Op(Family.TAIL),
}


def operands(node: Node) -> list[Any]:
    """The arguments of ``node`` that may carry relevance, in order: nodes, or the constants in their place."""
    items: list[Any] = []
    for position in VOCABULARY[node.target].operands:
        argument = node.args[position]
        items.extend(argument if isinstance(argument, tuple | list) else (argument,))
    return items


def signals(node: Node) -> list[Node]:
    """The operands of ``node`` that depend on the images; an input used twice appears twice."""
    return [operand for operand in operands(node) if depends_on_images(operand)]


def depends_on_images(value: Any) -> bool:
    """Whether ``value`` is a node computed from the images."""
    return isinstance(value, Node) and value.meta["depends_on_images"]


def family_of(node: Node) -> Family:
    """The family of a call in the canonical graph; a sum with a constant is pass-through."""
    family = VOCABULARY[node.target].family
    if family is Family.MERGE and len(signals(node)) == 1:
        return Family.PASS_THROUGH
    return family


def is_parametrised(node: Node) -> bool:
    """Whether ``node`` is a convolution or a linear layer acting on the images' signal."""
    return (
        depends_on_images(node)
        and node.op == "call_function"
        and VOCABULARY[node.target].family in (Family.CONVOLUTION, Family.LINEAR)
    )
