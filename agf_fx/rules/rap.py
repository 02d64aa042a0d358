"""Relative attributing propagation (Nam et al., AAAI 2020): priority by the size of contributions, then a shift.

Each rule divides as the published code does, by b + ε. x⁺, L⁺ are positive parts and x⁻, L⁻ negative ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from agf_fx.rules.linear_maps import adjoint, adjoint_by_sign, apply, apply_by_sign
from agf_fx.rules.numerics import Value, div, nonzero, share
from agf_fx.rules.propagation import to_first
from agf_fx.rules.rule import Messages, Promise, rule
from agf_fx.rules.site import Site

NAM = "Nam et al. 2020"


@rule(
    "Φ",
    "Φ_in = Δ(x ⊙ (L⁺ᵀ(Φ / z⁺) - L⁻ᵀ(Φ z⁻/z / z⁻))), z± = ±L±x, z = z⁺ + z⁻; Δ subtracts the mean of what is too much",
    promise=Promise.SHIFTS,
    divides=True,
    source=NAM,
)
def linear(site: Site, phi: Value) -> Messages:
    """Linear layers: what speaks for and against an output by its share, and again as a whole; the sum is restored."""
    speaks, against = _sides(site)
    z = speaks.size + against.size
    found = speaks.hand_on(site, phi * share(z)) + against.hand_on(site, phi * div(against.size, z))
    return to_first(site, _shifted(site, phi, found))


@rule(
    "Φ",
    "Φ_in = Δ(x ⊙ (L⁺ᵀ(Φ⁺ / z⁺) - L⁻ᵀ(Φ⁻ / z⁻) - L⁻ᵀ(Φ z⁻/z / z⁻))), z± = ±L±x, z = z⁺ + z⁻; Δ as for linear layers",
    promise=Promise.SHIFTS,
    divides=True,
    source=NAM,
)
def convolution(site: Site, phi: Value) -> Messages:
    """Convolutions: as linear layers, but negative relevance as a whole goes to what speaks against an output."""
    speaks, against = _sides(site)
    z = speaks.size + against.size
    other = torch.clamp_max(phi, 0) * share(z) + phi * div(against.size, z)
    found = speaks.hand_on(site, torch.clamp_min(phi, 0) * share(z)) + against.hand_on(site, other)
    return to_first(site, _shifted(site, phi, found))


@rule(
    "Φ",
    "Φ_in = |x| ⊙ |L|ᵀ(Φ / |L||x|)",
    promise=Promise.CONSERVES,
    divides=True,
    faithful=True,
    source=NAM,
)
def pointwise(site: Site, phi: Value) -> Messages:
    """Convolutions with a kernel of height 1: by the size of contributions alone."""
    x, size = torch.abs(site.x), torch.abs(site.weight)
    z = apply(site, x, size)
    return to_first(site, x * adjoint(site, div(site.settled(phi, z), z), size))


@rule(
    "Φ",
    "Φ_in = |c| / Σ|c| Σc, c_i = x_i w_ti and the bias by the shares of either sign",
    promise=Promise.NOTHING,
    divides=True,
    source=NAM,
)
def first(site: Site, phi: Value) -> Messages:
    """The head, where relevance starts as 1 at the target: contributions to the logit, by their size."""
    positive, negative = torch.clamp_min(site.weight, 0), torch.clamp_max(site.weight, 0)
    x, y = torch.clamp_min(site.x, 0), torch.clamp_max(site.x, 0)
    speaks = [(x, positive), (y, negative)]
    against = [(x, negative), (y, positive)]
    values = {pair: apply(site, *pair) for pair in (*speaks, *against)}
    found = 0
    for pair, z in values.items():
        found = pair[0] * adjoint(site, phi * share(z), pair[1]) + found
    if site.bias is not None:
        total = {}
        for name, pairs in (("for", speaks), ("against", against)):
            sums = (values[pairs[0]] + values[pairs[1]]) * phi
            total[name] = torch.sum(sums, [-1], True)
        for name, (value, weight) in (("for", (x, positive)), ("against", (x, negative))):
            part = phi * site.bias * div(total[name], total["for"] + total["against"])
            found = found + value * adjoint(site, div(part, apply(site, value, weight)), weight)
    dims = site.x_type.sample_dims
    size = torch.abs(found)
    return to_first(site, div(size, torch.sum(size, dims, True)) * torch.sum(found, dims, True))


class _Side(NamedTuple):
    """The contributions to outputs that have one sign.

    Attributes:
        ahead, behind: weights that positive and negative inputs contribute with, so that products are sizes.
        size: the sum of the contributions' sizes, (N, *y).
    """

    ahead: Value
    behind: Value
    size: Value

    def hand_on(self, site: Site, phi: Value) -> Value:
        """Relevance at the outputs to the inputs, by the sizes of their contributions."""
        return adjoint_by_sign(site, div(phi, self.size), self.ahead, self.behind)


def _sides(site: Site) -> tuple[_Side, _Side]:
    """What speaks for an output, and what against it."""
    positive, negative = torch.clamp_min(site.weight, 0), torch.clamp_max(site.weight, 0)
    both = (positive, negative), (-negative, -positive)
    speaks, against = (_Side(*weights, apply_by_sign(site, *weights)) for weights in both)
    return speaks, against


def _shifted(site: Site, phi: Value, found: Value) -> Value:
    """Δ: the difference of sums is spread over the entries that are not 0."""
    dims = site.x_type.sample_dims
    surplus = torch.sum(found, dims, True) - torch.sum(phi, site.output_dims, True)
    mask = nonzero(found)
    return found - mask * div(surplus, torch.sum(mask, dims, True))
