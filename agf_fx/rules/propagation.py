"""Relevance rules that methods share.

A rule takes the site, the relevance Φ at its output, the gradient at its output and the gradients at its operands,
and returns the relevance at each operand, in order (None where it hands none on). Relevances and gradients belong to
targets, (K, N, ...); the site's values are forward values, (N, ...), and anything computed from them alone is computed
once per image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from agf_fx.rules.gradients import vjp
from agf_fx.rules.linear_maps import adjoint, apply
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value, div, per_sample, share
from agf_fx.rules.site import Site

Rule = Callable[[Site, Value, Value, tuple[Value, ...]], tuple[Value, ...]]


def no_relevance(site: Site, phi: Value, g: Value, g_in: tuple[Value, ...]) -> tuple[Value, ...]:
    """Only the gradient passes."""
    return (None,) * len(site.operands)


@formula("Φ", "Φ_in = Φ")
def pass_through(site: Site, phi: Value, g: Value, g_in: tuple[Value, ...]) -> tuple[Value, ...]:
    """Relevance unchanged: batch norm, products with constants, sums with constants."""
    return (phi,) * len(site.operands)


@formula("Φ", "Φ_in = the entries of Φ, moved back")
def move_back(site: Site, phi: Value, g: Value, g_in: tuple[Value, ...]) -> tuple[Value, ...]:
    """Relevance moves with the data: the adjoint of a data movement puts every entry where it came from."""
    return vjp(site, phi)


@formula("Φ", "Φ_in = x ⊙ fᵀ(Φ / f(x))  (eq. 1)")
def proportional(site: Site, phi: Value, g: Value, g_in: tuple[Value, ...]) -> tuple[Value, ...]:
    """Each operand gets its share of the output: x ⊙ fᵀ(Φ / f(x)), fᵀ the vector-Jacobian product at x."""
    shares = vjp(site, div(phi, site.y))
    return tuple(x * share for x, share in zip(site.operands, shares, strict=True))


@formula("Φ", "Φ_in = fᵀ(Φ ⊙ y / (y + ε)), y = f(x)  (eq. 1, where f selects)")
def selective(site: Site, phi: Value, g: Value, g_in: tuple[Value, ...]) -> tuple[Value, ...]:
    """`proportional` for an f whose outputs are input entries or zero: x is y wherever fᵀ puts anything."""
    return vjp(site, phi * share(site.y))


@formula("C", "C = |x| ⊙ |L|ᵀ(Φ / |L||x|)  (eq. 9)")
def absolute_influence(site: Site, phi: Value) -> Value:
    """C: every input gets relevance by the absolute value of its contribution."""
    x, weight = torch.abs(site.x), torch.abs(site.weight)
    return x * adjoint(site, div(phi, apply(site, x, weight)), weight)


@formula("Φ", "Φ_in = C")
def flat(site: Site, phi: Value, g: Value, g_in: tuple[Value, ...]) -> tuple[Value, ...]:
    """A linear layer, or a convolution without residual terms: C alone."""
    return (absolute_influence(site, phi),)


@formula("Φ", "Φ_in = x ⊙ LᵀS - l·L⁺ᵀS - h·L⁻ᵀS, S = Φ / (Lx - L⁺l - L⁻h)  (z^B)")
def z_box(site: Site, phi: Value, g: Value, g_in: tuple[Value, ...]) -> tuple[Value, ...]:
    """The input layer's rule for bounded pixels (Montavon et al. 2017); l, h: the sample's extreme input values.

    L⁺l = l·L⁺1, and L⁺1 depends on the weights alone; LᵀS is written as L⁺ᵀS + L⁻ᵀS, which saves a product.
    """
    x, weight, dims = site.x, site.weight, per_sample(site.x_type.rank)
    positive, negative = torch.clamp_min(weight, 0), torch.clamp_max(weight, 0)
    low, high = torch.amin(x, dims, True), torch.amax(x, dims, True)
    Z = apply(site, x, weight) - _at_extreme(site, low, positive) - _at_extreme(site, high, negative)
    S = div(phi, Z)
    return ((x - low) * adjoint(site, S, positive) + (x - high) * adjoint(site, S, negative),)


def _at_extreme(site: Site, extreme: Value, weight: Value) -> Value:
    """L applied to the sample's extreme value at every entry."""
    return extreme * apply(site, ones_like_input(site), weight)


def ones_like_input(site: Site) -> Value:
    """One sample of ones, shaped like the layer's input."""
    return torch.ops.aten.new_ones.default(site.weight, [1, *site.x_type.sample_shape])


@formula("Φ", "Φ = x ⊙ ∂ŷ_t/∂x  (eq. 8)")
def initial_attribution(site: Site, phi: Value, g: Value, g_in: tuple[Value, ...]) -> tuple[Value, ...]:
    """The head's rule: relevance starts as input times gradient."""
    return (site.x * g_in[0],)
