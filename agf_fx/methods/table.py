"""Rule tables: which rule a call has, as an ordered list that can be read, added and printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from torch import fx

from agf_fx.errors import OptionsError
from agf_fx.ir.facts import Facts, facts
from agf_fx.ir.text import op_name
from agf_fx.ir.vocabulary import Family, family_of, is_scaled
from agf_fx.options import require_number, require_one_of
from agf_fx.rules.numerics import Division
from agf_fx.rules.register import registered_rules
from agf_fx.rules.rule import Rule


@dataclass(frozen=True)
class Where:
    """A condition on a call of the canonical graph; conditions combine by ``&``, ``|`` and ``~``.

    Attributes:
        holds: whether it holds of a call.
        text: what it says, in words.
    """

    holds: Callable[[fx.Node], bool]
    text: str

    def __call__(self, node: fx.Node) -> bool:
        """Whether the condition holds of a call."""
        return self.holds(node)

    def __and__(self, other: Where) -> Where:
        other = condition(other)
        return Where(lambda node: self(node) and other(node), f"{self.text} and {other.text}")

    def __or__(self, other: Where) -> Where:
        other = condition(other)
        return Where(lambda node: self(node) or other(node), f"({self.text} or {other.text})")

    def __invert__(self) -> Where:
        return Where(lambda node: not self(node), f"not {self.text}")

    def __str__(self) -> str:
        return self.text


def condition(value: object) -> Where:
    """``value``, if it is a condition.

    Raises:
        OptionsError: it is none.
    """
    if isinstance(value, Where):
        return value
    raise OptionsError(
        f"{value!r} is no condition on calls; give family(...), op(...), fact(...) or module(...), or a function of a "
        'node as Where(function, "in words").'
    )


everywhere = Where(lambda node: True, "everywhere")


puts_out_logits = Where(lambda node: any(user.op == "output" for user in node.users), "puts out the logits")
"""The call whose value is the model's output."""

scaled = Where(is_scaled, "product with a constant tensor")
"""Calls that multiply a signal by a constant tensor, which may have zeros."""


def family(*families: Family) -> Where:
    """Calls of these families."""
    return Where(lambda node: family_of(node) in families, " or ".join(families))


def op(*targets: Callable[..., Any]) -> Where:
    """Calls of these operations, such as ``torch.ops.aten.relu.default``."""
    return Where(lambda node: node.target in targets, " or ".join(map(op_name, targets)))


def fact(name: str) -> Where:
    """Calls of which the analyses have found this out; see `agf_fx.ir.facts.Facts`.

    Raises:
        OptionsError: there is no such fact.
    """
    known = tuple(field.name for field in fields(Facts))
    require_one_of("fact", name, known)
    return Where(lambda node: bool(getattr(facts(node), name)), name.replace("_", " "))


def module(pattern: str) -> Where:
    """Calls made by a module whose path in the model is like ``pattern``, as ``"layer4.*"``.

    Raises:
        OptionsError: the pattern is no text.
    """
    if not isinstance(pattern, str):
        raise OptionsError(f'module is {pattern!r}; give the path of a module, or a pattern such as "layer4.*".')
    return Where(lambda node: fnmatchcase(node.meta["module"], pattern), f"module {pattern}")


def depth(low: float, high: float = 1.0) -> Where:
    """Calls whose depth is at least ``low`` and below ``high``, or 1 where ``high`` is 1.

    The first convolution or linear layer has the depth 0, the last 1, by the longest way through the network; another
    call has that of the deepest layer in front of it.

    Raises:
        OptionsError: these are no such depths.
    """
    for name, value in (("low", low), ("high", high)):
        require_number(name, value, least=0)
    if not low < high <= 1:
        raise OptionsError(f"low is {low:g} and high {high:g}; give a low below a high of at most 1.")

    def holds(node: fx.Node) -> bool:
        found = facts(node).depth
        return low <= found and (found < high or high == 1)

    return Where(holds, f"depth {low:g} to {high:g}")


@dataclass(frozen=True)
class RuleTable:
    """An ordered list of conditions and rules: the first condition that holds of a call decides.

    Where none holds, nothing passes. Tables add: ``special + general`` asks ``special`` first.
    """

    entries: tuple[tuple[Where, Rule], ...] = ()

    def __post_init__(self) -> None:
        for entry in self.entries:
            if not isinstance(entry, tuple) or len(entry) != len(("where", "rule")):
                raise OptionsError(f"{entry!r} is no entry of a table; give pairs (condition, rule).")
            where, rule = entry
            condition(where)
            if not isinstance(rule, Rule):
                raise OptionsError(f"{rule!r} is no rule; where it makes one, call it, as lrp.z_plus().")

    @staticmethod
    def of(entries: Iterable[tuple[Where, Rule]]) -> RuleTable:
        """A table of these entries."""
        return RuleTable(tuple(entries))

    def __add__(self, other: RuleTable) -> RuleTable:
        if not isinstance(other, RuleTable):
            raise OptionsError(f"a {type(other).__name__} is no table of rules; make one: RuleTable.of([...]).")
        return RuleTable(self.entries + other.entries)

    def __iter__(self) -> Iterator[tuple[Where, Rule]]:
        return iter(self.entries)

    def rule_for(self, node: fx.Node) -> Rule | None:
        """The rule of a call; None where nothing passes."""
        return next((rule for where, rule in self.entries if where(node)), None)

    def divided(self, division: Division) -> RuleTable:
        """The same table, all rules dividing so."""
        return RuleTable(tuple((where, rule.divided(division)) for where, rule in self.entries))

    def __str__(self) -> str:
        width = max((len(str(where)) for where, _ in self.entries), default=0)
        return "\n".join(f"{where!s:<{width}}  {rule}" for where, rule in self.entries)


NOTHING = RuleTable()
"""A table under which nothing passes."""


def registered() -> RuleTable:
    """The rules that users have registered for single operations, as they are now."""
    return RuleTable.of((op(target), rule) for target, rule in registered_rules().items())
