"""Calls of operations without a rule, as functions of their tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from agf_fx.ir.captured import tensor_arguments
from agf_fx.ir.types import TensorType, carried_type
from agf_fx.ir.vocabulary import depends_on_images


class Unfit(Exception):
    """The derivative of a call cannot be captured, with the reason in the words for the user."""


@dataclass(frozen=True)
class Call:
    """A call of an unknown operation, as a function of its tensor arguments.

    Attributes:
        node: the call.
        tensors: its arguments that are nodes, see `tensor_arguments`.
        operands: positions of the arguments with gradients.
        carrying: for every operand, or every item where an operand is a list: its position in ``tensors``.
    """

    node: fx.Node
    tensors: list[fx.Node]
    operands: tuple[int, ...]
    carrying: list[int]

    @staticmethod
    def of(node: fx.Node) -> Call:
        """Find out what can carry relevance.

        Raises:
            Unfit: nothing can, or the operation is random or none of PyTorch's.
        """
        if not isinstance(node.target, torch._ops.OpOverload):
            raise Unfit("it is no operation with a derivative of its own.")
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise Unfit("it is random.")
        kind = carried_type(node)
        if isinstance(kind, TensorType) and kind.dtype.is_complex:
            raise Unfit(f"its result ({kind}) is complex, and relevance is followed through real numbers only.")
        if not isinstance(kind, TensorType) or not kind.dtype.is_floating_point:
            raise Unfit(f"its result ({kind}) has no derivative.")
        if any(_reads_further(user) for user in node.users if isinstance(node.meta["type"], tuple)):
            raise Unfit("the model reads more than the first of its results.")
        operands = tuple(i for i, argument in enumerate(node.args) if any(map(_carries, _items(argument))))
        if not operands:
            raise Unfit("it reads the images through no floating-point argument.")
        tensors = tensor_arguments(node, node.args, node.kwargs)
        items = [item for position in operands for item in _items(node.args[position])]
        if not all(isinstance(item, fx.Node) for item in items):
            raise Unfit("a list among its arguments holds more than tensors.")
        before = [len(list(_nodes(node.args[:position]))) for position in operands]
        counts = [len(_items(node.args[position])) for position in operands]
        carrying = [start + i for start, count in zip(before, counts, strict=True) for i in range(count)]
        return Call(node, tensors, operands, carrying)

    def run(self, values: list[Any]) -> Any:
        """The first result on other values."""
        leaves, spec = pytree.tree_flatten((tuple(self.node.args), dict(self.node.kwargs)))
        given = iter(values)
        args, kwargs = pytree.tree_unflatten([next(given) if isinstance(x, fx.Node) else x for x in leaves], spec)
        result = self.node.target(*args, **kwargs)
        return result[0] if isinstance(self.node.meta["type"], tuple) else result

    def gradients(self, *values: Any) -> list[Tensor | None]:
        """Autograd's gradients; the last of ``values`` is the gradient at the result."""
        *values, g = values
        varying = [i for i in self.carrying if depends_on_images(self.tensors[i])]
        for i in varying:
            values[i] = values[i].detach().requires_grad_()
        with torch.enable_grad():
            y = self.run(values)
        if not y.requires_grad:
            raise Unfit("it has no derivative.")
        found = torch.autograd.grad(y, [values[i] for i in varying], g, allow_unused=True)
        given = dict(zip(varying, found, strict=True))
        if all(gradient is None for gradient in found):
            raise Unfit("it has no derivative.")
        return [
            None if i not in given else torch.zeros_like(values[i]) if given[i] is None else given[i]
            for i in self.carrying
        ]

    def signature(self) -> str:
        """What the captured product depends on."""
        leaves, spec = pytree.tree_flatten((tuple(self.node.args), dict(self.node.kwargs)))
        kinds = [
            (str(x.meta["type"]), x.meta["depends_on_images"]) if isinstance(x, fx.Node) else repr(x) for x in leaves
        ]
        return f"{self.node.target} {kinds} {spec}"


def _reads_further(user: fx.Node) -> bool:
    return user.args[1] != 0 and user.meta["type"].dtype.is_floating_point


def _items(argument: Any) -> list[Any]:
    return list(argument) if isinstance(argument, tuple | list) else [argument]


def _nodes(argument: Any) -> Iterator[fx.Node]:
    yield from (leaf for leaf in pytree.tree_leaves(argument) if isinstance(leaf, fx.Node))


def _carries(argument: Any) -> bool:
    return depends_on_images(argument) and carried_type(argument).dtype.is_floating_point
