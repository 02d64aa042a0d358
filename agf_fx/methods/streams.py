"""Streams that methods share."""

from __future__ import annotations

from agf_fx.methods.method import Seed, Stream
from agf_fx.methods.table import NOTHING, RuleTable, everywhere
from agf_fx.rules.gradients import accumulation, chain_rule
from agf_fx.rules.site import GRADIENT

CHAIN_RULE = RuleTable.of([(everywhere, chain_rule)])
"""The vector-Jacobian product of every call."""


def gradient_stream(seed: Seed, special: RuleTable = NOTHING) -> Stream:
    """The gradient of what ``seed`` is the gradient of at the logits; calls in ``special`` have other rules."""
    return Stream(GRADIENT, rules=special + CHAIN_RULE, seed=seed, merge=accumulation, derives=True)
