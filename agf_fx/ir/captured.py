"""A vector-Jacobian product as a graph: what PyTorch's autograd computes for one call, captured once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from agf_fx.ir.types import TensorType

aten = torch.ops.aten

Value = Any  # a tensor or an fx.Proxy


@dataclass(frozen=True, eq=False)
class CapturedVjp:
    """The gradients of a call at its operands, as a graph ``(*tensor arguments, gradient) -> gradients``.

    The graph knows one gradient; calling this applies it to K at once. What does not depend on the gradient is
    computed once for all of them. What does is computed with K as a dimension in front where every such operation works
    entry by entry, and else with K merged into the batch dimension.

    Attributes:
        graph: every node has ``meta["type"]`` and ``meta["per_target"]``, whether it depends on the gradient. The
            output is a tuple with None for operands that are constants.
        operands: positions of the call's arguments at which there are gradients.
        entrywise: whether everything that depends on the gradient is computed entry by entry.
    """

    graph: fx.Graph
    operands: tuple[int, ...]
    entrywise: bool

    def __call__(self, tensors: Sequence[Value], g: Value, targets: Value) -> tuple[Value | None, ...]:
        """Gradients (K, ...) at the operands; None at a constant.

        Args:
            tensors: the call's tensor arguments, see `tensor_arguments`.
            g: the gradient at the output, (K, ...).
            targets: K.
        """
        nodes = list(self.graph.nodes)
        *arguments, gradient = (node for node in nodes if node.op == "placeholder")
        lanes = (_Entrywise if self.entrywise else _Merged)(targets)
        values = dict(zip(arguments, tensors, strict=True))
        values[gradient] = lanes.enter(g, gradient.meta["type"])
        repeated: dict[fx.Node, Value] = {}

        def per_target(source: fx.Node) -> Value:
            if source.meta["per_target"]:
                return values[source]
            if source not in repeated:
                repeated[source] = lanes.repeat(values[source], source.meta["type"])
            return repeated[source]

        for node in nodes:
            if node.op == "call_function":
                read = per_target if node.meta["per_target"] else values.__getitem__
                args, kwargs = fx.map_arg((node.args, node.kwargs), read)
                values[node] = _call(node.target, args, kwargs, g)
        found = self.graph.output_node().args[0]
        return tuple(None if node is None else lanes.leave(per_target(node), node.meta["type"]) for node in found)


def tensor_arguments(node: fx.Node, args: Any, kwargs: Any) -> list[Any]:
    """The values in ``args`` and ``kwargs`` where the call ``node`` has nodes, in order; one used twice comes twice."""
    written, _ = pytree.tree_flatten((tuple(node.args), dict(node.kwargs)))
    given, _ = pytree.tree_flatten((tuple(args), dict(kwargs)))
    return [value for value, leaf in zip(given, written, strict=True) if isinstance(leaf, fx.Node)]


def _call(target: Any, args: Any, kwargs: Any, like: Value) -> Value:
    """Run a call, or emit it where values are proxies, of which it need not read any."""
    return like.tracer.call(target, args, kwargs) if isinstance(like, fx.Proxy) else target(*args, **kwargs)


class _Entrywise:
    """K in front: forward values broadcast."""

    def __init__(self, targets: Value) -> None:
        self.targets = targets

    def enter(self, value: Value, kind: TensorType) -> Value:
        return value

    def repeat(self, value: Value, kind: TensorType) -> Value:
        return value

    def leave(self, value: Value, kind: TensorType) -> Value:
        return value


class _Merged(_Entrywise):
    """K inside the batch dimension, wherever that stands: every target is a further batch."""

    def enter(self, value: Value, kind: TensorType) -> Value:
        batch = kind.batch_dim
        if batch:
            value = torch.permute(value, [*range(1, batch + 1), 0, *range(batch + 1, kind.rank + 1)])
        return torch.flatten(value, batch, batch + 1)

    def repeat(self, value: Value, kind: TensorType) -> Value:
        if kind.batch_dim is None:
            return value
        sizes = [-1] * (kind.rank + 1)
        sizes[kind.batch_dim] = self.targets
        value = aten.expand.default(torch.unsqueeze(value, kind.batch_dim), sizes)
        return torch.flatten(value, kind.batch_dim, kind.batch_dim + 1)

    def leave(self, value: Value, kind: TensorType) -> Value:
        batch, shape = kind.batch_dim, kind.free_batch
        value = torch.reshape(value, [*shape[:batch], self.targets, *shape[batch:]])
        return torch.permute(value, [batch, *range(batch), *range(batch + 1, kind.rank + 1)]) if batch else value
