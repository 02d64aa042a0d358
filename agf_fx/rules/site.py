"""What a rule may read about the call it is applied to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import fx

from agf_fx.ir.facts import Facts, facts
from agf_fx.ir.types import TensorType, carried_type
from agf_fx.ir.vocabulary import depends_on_images, op_of, operands
from agf_fx.rules.numerics import Value, divides_exactly, merge_targets, settled, split_targets

GRADIENT, RELEVANCE = "gradient", "relevance"
"""Names of streams; rules may read the gradient."""


class Sent(NamedTuple):
    """What a stream had at a call.

    Attributes:
        received: the message at its output, (K, N, *y).
        handed: the messages at its operands, in order; None where nothing was handed on.
    """

    received: Value
    handed: Sequence[Value | None]


@dataclass(frozen=True)
class Site:
    """One call of the canonical graph with the values of a run, or of an emission.

    Attributes:
        node: the canonical node; types and facts are read from it.
        args: its arguments, nodes replaced by values.
        output: its value (a tuple for operations with several outputs).
        targets: the number of targets K, the first dimension of gradients and relevances.
        kwargs: its keyword arguments.
        sent: what streams before this one had here, by name of the stream.
        beside: constants that a canoniser has put beside the call, by what they are to its rules.
        reference: the same call on the baseline, whose values broadcast to those of the images; None for methods
            that do not compare.
    """

    node: fx.Node
    args: tuple[Any, ...]
    output: Any
    targets: Value
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    sent: dict[str, Sent] = field(default_factory=dict)
    beside: Mapping[str, Value] = field(default_factory=dict)
    reference: Site | None = None

    @property
    def x(self) -> Value:
        """The first operand: the layer's input."""
        return self.operands[0]

    @property
    def weight(self) -> Value:
        """The weight of a convolution or linear layer."""
        return self.args[1]

    @property
    def bias(self) -> Value | None:
        """The bias of a convolution or linear layer; None where there is none."""
        return self.args[2] if len(self.args) > 2 else None

    @property
    def y(self) -> Value:
        """The output that carries relevance."""
        return self.output[0] if isinstance(self.node.meta["type"], tuple) else self.output

    @property
    def operands(self) -> list[Value]:
        """The values of the arguments that may carry relevance."""
        items: list[Value] = []
        for position in op_of(self.node).operands:
            several = isinstance(self.node.args[position], tuple | list)  # a list of tensors; a value may be a tuple
            items.extend(self.args[position] if several else (self.args[position],))
        return items

    @property
    def are_signals(self) -> list[bool]:
        """Which operands are computed from the images."""
        return [depends_on_images(operand) for operand in operands(self.node)]

    @property
    def types(self) -> list[TensorType]:
        """The types of the operands (None for a Python number)."""
        return [operand.meta["type"] if isinstance(operand, fx.Node) else None for operand in operands(self.node)]

    @property
    def x_type(self) -> TensorType:
        """The type of the first operand."""
        return self.types[0]

    @property
    def y_type(self) -> TensorType:
        """The type of the output that carries relevance."""
        return carried_type(self.node)

    def per_target(self, adjoint: Callable[..., Value], s: Value, *read: Value) -> Value:
        """Apply an adjoint that knows one batch dimension to values of K targets: (K, N, *y) -> (K, N, *x).

        Args:
            adjoint: function of (K·N, ...) tensors.
            s: a gradient or relevance at the output.
            read: forward values of rank ``x_type.rank`` that the adjoint reads, (N, ...); repeated for every target.
        """
        repeated = [merge_targets(torch.ops.aten.expand.default(value, self._for_each_target)) for value in read]
        return split_targets(adjoint(merge_targets(s), *repeated), self.targets, self.x_type.sample_shape)

    def of(self, x: Value) -> Value:
        """The operation on ``x`` in place of the first operand: the output that carries relevance."""
        output = self.node.target(x, *self.args[1:], **self.kwargs)
        return output[0] if isinstance(self.node.meta["type"], tuple) else output

    @property
    def _for_each_target(self) -> list[Value]:
        return [self.targets, *[-1] * self.x_type.rank]

    @property
    def output_dims(self) -> list[int]:
        """The dimensions of the output that belong to one sample, counted from the end."""
        return self.y_type.sample_dims

    def settled(self, phi: Value, denominator: Value) -> Value:
        """Relevance at the output, none of it where the denominator is 0; see `numerics.settled`."""
        return settled(phi, denominator, self.output_dims) if divides_exactly() else phi

    @property
    def facts(self) -> Facts:
        """What the analyses found out about this call."""
        return facts(self.node)


Vjp = Callable[[Site, Value], tuple[Value, ...]]
