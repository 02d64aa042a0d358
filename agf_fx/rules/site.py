"""What a rule may read about the call it is applied to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from agf_fx.ir.facts import Facts, facts
from agf_fx.ir.types import TensorType, carried_type
from agf_fx.ir.vocabulary import VOCABULARY, operands
from agf_fx.rules.numerics import Value


@dataclass(frozen=True)
class Site:
    """One call of the canonical graph with the values of a run, or of an emission.

    Attributes:
        node: the canonical node; types and facts are read from it.
        args: its arguments, nodes replaced by values.
        output: its value (a tuple for operations with several outputs).
    """

    node: fx.Node
    args: tuple[Any, ...]
    output: Any

    @property
    def x(self) -> Value:
        """The first operand: the layer's input."""
        return self.operands[0]

    @property
    def weight(self) -> Value:
        """The weight of a convolution or linear layer."""
        return self.args[1]

    @property
    def y(self) -> Value:
        """The output that carries relevance."""
        return self.output[0] if isinstance(self.node.meta["type"], tuple) else self.output

    @property
    def operands(self) -> list[Value]:
        """The values of the arguments that may carry relevance."""
        items: list[Value] = []
        for position in VOCABULARY[self.node.target].operands:
            several = isinstance(self.node.args[position], tuple | list)  # a list of tensors; a value may be a tuple
            items.extend(self.args[position] if several else (self.args[position],))
        return items

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

    @property
    def facts(self) -> Facts:
        """What the analyses found out about this call."""
        return facts(self.node)
