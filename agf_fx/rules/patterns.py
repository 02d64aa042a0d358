"""Backward passes through a layer with patterns in the place of its weights (Kindermans et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from agf_fx.rules.linear_maps import adjoint
from agf_fx.rules.numerics import Value
from agf_fx.rules.propagation import to_first
from agf_fx.rules.rule import Messages, Promise, rule
from agf_fx.rules.site import Site

KINDERMANS = "Kindermans et al. 2018"
ABOVE, BELOW = "pattern", "pattern below"
"""What stands beside a layer: the pattern, of the positive regime where there are two, and that of the negative one."""


@rule("∇", "∇x = Aᵀ∇y, A± where ±y > 0", promise=Promise.NOTHING, source=KINDERMANS)
def signal(site: Site, g: Value) -> Messages:
    """PatternNet: the gradient with the directions of the signal for weights."""
    return to_first(site, _pulled_back(site, g, lambda pattern: pattern))


@rule("Φ", "Φ_in = (W ⊙ A)ᵀΦ, A± where ±y > 0", promise=Promise.MASKS, source=KINDERMANS)
def attribution(site: Site, phi: Value) -> Messages:
    """PatternAttribution: to each input what its part of the signal contributes.

    As wᵀa = 1, a layer conserves, but for what falls on padding and on neurons without a pattern.
    """
    return to_first(site, _pulled_back(site, phi, lambda pattern: site.weight * pattern))


def _pulled_back(site: Site, message: Value, weight: Callable[[Value], Value]) -> Value:
    above, below = site.beside[ABOVE], site.beside.get(BELOW)
    if below is None:
        return adjoint(site, message, weight(above))
    positive = torch.relu(torch.sign(site.y))
    found = adjoint(site, message * positive, weight(above))
    return found + adjoint(site, message * (-positive + 1.0), weight(below))
