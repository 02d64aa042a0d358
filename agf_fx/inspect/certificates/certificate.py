"""What a certificate is: claims about a rule, each with the small layer on which its own code proves it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sympy

from agf_fx.inspect.certificates.numbers import Number, is_zero
from agf_fx.rules.rule import Promise, Rule


@dataclass(frozen=True)
class Claim:
    """A claim.

    Attributes:
        says: it in words.
        layer: the small symbolic layer on which it is proved.
        residuals: rule -> the numbers that are 0 if it holds, one for each entry and case.
        latex: the identity.
        promise: what of a rule's promises it proves; None for another claim.
        example: rule -> LaTeX of what its code computes on the layer.
    """

    says: str
    layer: str
    residuals: Callable[[Any], Iterable[Number]]
    latex: str = ""
    promise: Promise | None = None
    example: Callable[[Any], str] | None = None

    def residual(self, rule: Any) -> sympy.Expr:
        """0 where the claim is proved of ``rule``; else what is left of the first identity that does not hold."""
        for found in self.residuals(rule):
            if not is_zero(found):
                return sympy.factor_terms(found.expression) or found.expression
        return sympy.S.Zero

    def holds(self, rule: Any) -> bool:
        """Whether it is proved of ``rule``."""
        return all(is_zero(found) for found in self.residuals(rule))


@dataclass(frozen=True)
class Certificate:
    """What is proved of a rule.

    Attributes:
        rule: the rule, or the start or merge of a stream.
        claims: what is claimed of it.
    """

    rule: Any
    claims: tuple[Claim, ...]

    @property
    def unclaimed(self) -> Promise | None:
        """What the rule promises of the sum without a claim that proves it; None where there is no such thing."""
        rule = self.rule
        promises = [rule.promise, rule.otherwise] if isinstance(rule, Rule) else []
        proved = {None, Promise.NOTHING, Promise.STARTS, *(claim.promise for claim in self.claims)}
        return next((promise for promise in promises if promise not in proved), None)

    def computed(self) -> str:
        """What the rule's code computes on a small layer, as LaTeX; empty where it is none of a layer."""
        return next((claim.example(self.rule) for claim in self.claims if claim.example), "")

    def proofs(self) -> list[tuple[Claim, sympy.Expr]]:
        """Every claim with what is left of it, which is 0 where it is proved. The rule's code runs on symbols."""
        return [(claim, claim.residual(self.rule)) for claim in self.claims]

    @property
    def holds(self) -> bool:
        """Whether all claims are proved, and with them what the rule promises."""
        return self.unclaimed is None and all(claim.holds(self.rule) for claim in self.claims)
