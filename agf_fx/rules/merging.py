"""What becomes of the messages that several readers of a value hand back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agf_fx.rules.notation import scope
from agf_fx.rules.numerics import PUBLISHED, Division, Value, dividing, settled, share


@dataclass(frozen=True)
class Merge:
    """How messages at one value become one.

    Attributes:
        function: (value (N, ...), messages (K, N, ...), two or more, dimensions of one sample) -> message.
        name: as it stands in graphs.
        symbol: of what it computes.
        equation: the formula.
        division: how it divides.
    """

    function: Callable[[Value, Sequence[Value], list[int]], Value]
    name: str
    symbol: str = ""
    equation: str = ""
    division: Division = PUBLISHED

    def __call__(self, x: Value, messages: Sequence[Value | None], dims: list[int]) -> Value | None:
        """The message at ``x``; None where no reader hands one back."""
        given = [message for message in messages if message is not None]
        if len(given) < 2:
            return given[0] if given else None
        with scope(rule=self.name, symbol=self.symbol, equation=self.equation), dividing(self.division):
            return self.function(x, given, dims)

    def divided(self, division: Division) -> Merge:
        """The same, dividing otherwise."""
        return replace(self, division=division)


def _sum(x: Value, messages: Sequence[Value], dims: list[int]) -> Value:
    return sum(messages[1:], messages[0])


def _shared(x: Value, messages: Sequence[Value], dims: list[int]) -> Value:
    return settled(sum(messages[1:], messages[0]), x, dims) * share(x)


total = Merge(_sum, "sum", "Φ", "Σ_i Φ_i")
"""The sum."""

fan_out = Merge(_shared, "fan_out", "Φ", "x / (x + ε) ⊙ Σ_i Φ_i")
"""The sum, and 0 where the value is 0 (Gur, Ali and Wolf 2021, in the published code)."""
