"""What a rule is: a function from a message at the output of a call to messages at its operands, which knows itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from agf_fx.errors import OptionsError
from agf_fx.ir.text import op_name
from agf_fx.rules.notation import scope
from agf_fx.rules.numerics import PUBLISHED, Division, Value, dividing
from agf_fx.rules.site import Site

Messages = Sequence[Value | None]
"""One message for each operand, in order; None where nothing is handed on."""


class Promise(StrEnum):
    """What a rule promises of the sum of relevance, over all entries of a sample."""

    STARTS = "starts"  # it makes relevance, and is handed none
    CONSERVES = "conserves"
    SAVE_CONSTANTS = "conserves but for constants"  # what falls on entries that are none of its input is lost
    SHIFTS = "shifts to conserve"  # it adds terms, and subtracts their mean
    SAVE_BIASES = "conserves but for biases"
    BOTH_SIGNS = "conserves where contributions have both signs"  # what falls to a sign that none has is lost
    BOTH_SIGNS_SAVE_BIASES = "conserves but for biases where contributions have both signs"
    MASKS = "may lose by masking"
    NOTHING = "does not conserve"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Rule:
    """How one call hands on what its output receives: relevance, or a gradient.

    Called with a site and a message (K, N, *output), it returns a message (K, N, *operand) for every operand, on
    tensors as on `torch.fx.Proxy`. Forward values have the shape (N, ...), and what is computed of them alone is
    computed once per image and not once per target.

    Attributes:
        function: ``function(site, message) -> messages``.
        name: as it stands in graphs.
        symbol: of what it computes.
        equation: the formula, with its number in the source.
        source: the paper.
        promise: what it promises of the sum, in exact division.
        divides: whether it divides, so that a stabiliser takes some of the relevance.
        faithful: whether relevance at an entry x ≠ 0 vanishes only if that at every output which depends on it does.
        parameters: names and values, as in ``epsilon(ε=1e-06)``.
        division: how it divides.
        otherwise: what it promises in division that is not exact, where that is more than the stabiliser's part.
    """

    function: Callable[[Site, Value], Messages]
    name: str
    symbol: str = "Φ"
    equation: str = ""
    source: str = ""
    promise: Promise = Promise.UNKNOWN
    divides: bool = False
    faithful: bool = False
    parameters: tuple[tuple[str, object], ...] = ()
    division: Division = PUBLISHED
    otherwise: Promise | None = None

    def __call__(self, site: Site, message: Value) -> Messages:
        """The messages at the operands of ``site``.

        Raises:
            OptionsError: the function returns something else.
        """
        with scope(symbol=self.symbol, equation=self.equation), dividing(self.division):
            messages = self.function(site, message)
        wanted = len(site.operands)
        if not isinstance(messages, tuple | list) or len(messages) != wanted:
            found = f"{len(messages)} messages" if isinstance(messages, tuple | list) else type(messages).__name__
            raise OptionsError(
                f"rule {self} returns {found} at %{site.node.name} = {op_name(site.node.target)}; return a tuple of "
                f"{wanted}, one for each operand in order, None where nothing is handed on."
            )
        return messages

    def divided(self, division: Division) -> Rule:
        """The same rule, dividing otherwise."""
        return replace(self, division=division)

    @property
    def promised(self) -> str:
        """What it promises of the sum, in words, as it divides."""
        if self.division.is_exact:
            return self.promise
        if self.otherwise is not None:
            return self.otherwise
        return f"{self.promise} but for {self.division}" if self.divides else self.promise

    def __str__(self) -> str:
        parameters = ", ".join(f"{name}={value}" for name, value in self.parameters)
        return f"{self.name}({parameters})" if parameters else self.name


def rule(
    symbol: str,
    equation: str,
    *,
    promise: Promise = Promise.UNKNOWN,
    divides: bool = False,
    faithful: bool = False,
    source: str = "",
    otherwise: Promise | None = None,
) -> Callable[[Callable[[Site, Value], Messages]], Rule]:
    """Make a function of a site and a message a `Rule` of the same name; see there for the arguments."""

    def decorate(function: Callable[[Site, Value], Messages]) -> Rule:
        return Rule(
            function,
            function.__name__,
            symbol,
            equation,
            source,
            promise,
            divides,
            faithful,
            otherwise=otherwise,
        )

    return decorate
