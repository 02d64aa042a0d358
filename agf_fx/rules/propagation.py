"""Relevance rules that methods share.

Relevances belong to targets, (K, N, ...); the site's values are forward values, (N, ...), and anything computed from
them alone is computed once per image.
"""

from __future__ import annotations

import torch

from agf_fx.ir.vocabulary import operands
from agf_fx.rules.gradients import vjp
from agf_fx.rules.linear_maps import adjoint, apply
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value, div, divides_exactly, nonzero, share
from agf_fx.rules.rule import Messages, Promise, rule
from agf_fx.rules.site import GRADIENT, Site

AGF = "Gur, Ali and Wolf 2021"


@rule("Φ", "Φ_in = Φ", promise=Promise.CONSERVES, faithful=True, source="Achtibat et al. 2024")
def pass_through(site: Site, phi: Value) -> Messages:
    """Relevance unchanged: activations (Achtibat et al. 2024, eq. 9), normalisations, products and sums with constants.

    The paper does so for batch norm, where it is exact: a scale per channel cancels in the rules.
    """
    return (phi,) * len(site.operands)


@rule("Φ", "Φ_in = Φ ⊙ [c ≠ 0]", promise=Promise.SAVE_CONSTANTS, faithful=True)
def scaled(site: Site, phi: Value) -> Messages:
    """Relevance through a product with a constant tensor: where that is 0, as in a mask, the input gets none."""
    constant = site.args[1]
    phi = phi * (constant if site.types[1].dtype is torch.bool else nonzero(constant))
    return (phi,) * len(site.operands)


@rule("Φ", "Φ_in = the entries of Φ, moved back", promise=Promise.SAVE_CONSTANTS, faithful=True)
def move_back(site: Site, phi: Value) -> Messages:
    """Relevance moves with the data: the adjoint of a data movement puts every entry where it came from."""
    return vjp(site, phi)


@rule("Φ", "Φ_in = x ⊙ fᵀ(Φ / f(x))  (eq. 1)", promise=Promise.CONSERVES, divides=True, faithful=True, source=AGF)
def proportional(site: Site, phi: Value) -> Messages:
    """Each operand gets its share of the output: x ⊙ fᵀ(Φ / f(x)), fᵀ the vector-Jacobian product at x."""
    shares = vjp(site, div(site.settled(phi, site.y), site.y))
    return tuple(x * share for x, share in zip(site.operands, shares, strict=True))


@rule(
    "Φ",
    "Φ_in = fᵀ(Φ ⊙ y / (y + ε)), y = f(x)  (eq. 1, where f selects)",
    promise=Promise.CONSERVES,
    otherwise=Promise.MASKS,
    faithful=True,
    source=AGF,
)
def selective(site: Site, phi: Value) -> Messages:
    """`proportional` for an f whose outputs are input entries or zero: x is y wherever fᵀ puts anything."""
    return vjp(site, site.settled(phi, site.y) * share(site.y))


@rule(
    "Φ",
    "Φ_in = |x| ⊙ fᵀ(Φ / f(|x|))  (eq. 9, with the weights of a mean)",
    promise=Promise.CONSERVES,
    divides=True,
    faithful=True,
    source=AGF,
)
def average(site: Site, phi: Value) -> Messages:
    """A linear map with weights ≥ 0: `proportional` where x ≥ 0, and bounded where values of either sign cancel."""
    x = torch.abs(site.x)
    y = site.of(x)
    return (x * vjp(site, div(site.settled(phi, y), y))[0],)


@rule(
    "Φ",
    "Φ_a = |a| / (|a| + |b|) ⊙ Φ  (Otsuki et al. 2024)",
    promise=Promise.CONSERVES,
    divides=True,
    faithful=True,
    source="Otsuki et al. 2024",
)
def merge_by_size(site: Site, phi: Value) -> Messages:
    """A sum's relevance by the sizes of its terms, which stays bounded where they cancel."""
    sizes = [torch.abs(operand) for operand in site.operands]
    total = sizes[0] + sizes[1]
    part = div(site.settled(phi, total), total)
    return tuple(size * part for size in sizes)


@rule(
    "Φ", "Φ_signal = Φ, nothing to the gate  (Arras et al. 2017)", promise=Promise.CONSERVES, source="Arras et al. 2017"
)
def gated(site: Site, phi: Value) -> Messages:
    """A signal scaled by a gate, or divided by its own size: all of the relevance belongs to the signal."""
    return tuple(None if operand.name == site.facts.gate else phi for operand in operands(site.node))


@rule(
    "Φ",
    "Φ_a = a ⊙ f_aᵀ(Φ / 2ab)  (Achtibat et al. 2024, eq. 15)",
    promise=Promise.CONSERVES,
    divides=True,
    faithful=True,
    source="Achtibat et al. 2024",
)
def bilinear(site: Site, phi: Value) -> Messages:
    """A product of two signals, entry by entry or of matrices: half of the relevance to either."""
    shares = vjp(site, div(site.settled(phi, site.y), site.y) * 0.5)
    return tuple(x * share for x, share in zip(site.operands, shares, strict=True))


@rule("Φ", "Φ_a = |a ∂f/∂a| / (|a ∂f/∂a| + |b ∂f/∂b|) ⊙ Φ", promise=Promise.CONSERVES, divides=True)
def by_influence(site: Site, phi: Value) -> Messages:
    """A function of two signals, entry by entry: to each by the size of its input times derivative.

    Of a sum these are the sizes of the terms, of a product the halves; what the function is at 0 plays no part.
    """
    slopes = vjp(site, torch.ones_like(site.y))
    sizes = [torch.abs(operand * slope) for operand, slope in zip(site.operands, slopes, strict=True)]
    total = sizes[0] + sizes[1]
    part = div(site.settled(phi, total), total)
    return tuple(size * part for size in sizes)


@rule("Φ", "Φ_in = fᵀΦ, f' ≥ 0 weights with the sum 1", promise=Promise.CONSERVES)
def by_weights(site: Site, phi: Value) -> Messages:
    """log Σ exp: to each entry by its weight exp x / Σ exp x, as the sum of exponentials written out gives it."""
    return vjp(site, phi)


@rule(
    "Φ",
    "Φ_V = |V| ⊙ Aᵀ(Φ / A|V|), nothing to A  (Ali et al. 2022, with eq. 9)",
    promise=Promise.CONSERVES,
    divides=True,
    source="Ali et al. 2022",
)
def constant_attention(site: Site, phi: Value) -> Messages:
    """Attention weights A ≥ 0 taken for constants: all of the relevance goes by the value path, be it A V or V A."""
    first, second = site.operands
    if operands(site.node)[0].name == site.facts.attention:
        values = torch.abs(second)
        y = torch.matmul(first, values)
        part = torch.matmul(torch.transpose(first, -2, -1), div(site.settled(phi, y), y))
        return (None, values * part)
    values = torch.abs(first)
    y = torch.matmul(values, second)
    part = torch.matmul(div(site.settled(phi, y), y), torch.transpose(second, -2, -1))
    return (values * part, None)


@rule(
    "Φ",
    "Φ_in = x ⊙ (Φ - s Σ Φ), s = softmax(x)  (Achtibat et al. 2024, eq. 13)",
    promise=Promise.NOTHING,
    source="Achtibat et al. 2024",
)
def softmax(site: Site, phi: Value) -> Messages:
    """The Taylor expansion of softmax at x; entries masked out with -inf get nothing."""
    dim = site.args[1] - site.y_type.rank
    finite = torch.clamp_min(site.x, torch.finfo(site.x_type.dtype).min)
    return (finite * nonzero(site.y) * (phi - site.y * torch.sum(phi, [dim], True)),)


@formula("C", "C = |x| ⊙ |L|ᵀ(Φ / |L||x|)  (eq. 9)")
def absolute_influence(site: Site, phi: Value) -> Value:
    """C: every input gets relevance by the absolute value of its contribution."""
    x, weight = torch.abs(site.x), torch.abs(site.weight)
    y = apply(site, x, weight)
    return x * adjoint(site, div(site.settled(phi, y), y), weight)


@rule("Φ", "Φ_in = C", promise=Promise.CONSERVES, divides=True, faithful=True, source=AGF)
def flat(site: Site, phi: Value) -> Messages:
    """A linear layer, or a convolution without residual terms: C alone."""
    return to_first(site, absolute_influence(site, phi))


@rule(
    "Φ",
    "Φ_in = x ⊙ LᵀS - l·L⁺ᵀS - h·L⁻ᵀS, S = Φ / (Lx - L⁺l - L⁻h)  (z^B)",
    promise=Promise.CONSERVES,
    divides=True,
    source="Montavon et al. 2017",
)
def z_box(site: Site, phi: Value) -> Messages:
    """The input layer's rule for bounded pixels (Montavon et al. 2017); l, h: the sample's extreme input values.

    In exact division, relevance of a layer that sees a constant image goes by the weights alone (eq. 10).

    L⁺l = l·L⁺1, and L⁺1 depends on the weights alone; LᵀS is written as L⁺ᵀS + L⁻ᵀS, which saves a product.
    """
    x, weight, dims = site.x, site.weight, site.x_type.sample_dims
    positive, negative = torch.clamp_min(weight, 0), torch.clamp_max(weight, 0)
    low, high = torch.amin(x, dims, True), torch.amax(x, dims, True)
    if divides_exactly():  # an output whose inputs are all extreme has Z = 0, which a difference of products misses
        Z = apply(site, x - low, positive) + apply(site, x - high, negative)
    else:
        Z = apply(site, x, weight) - _at_extreme(site, low, positive) - _at_extreme(site, high, negative)
    S = div(site.settled(phi, Z), Z)
    relevance = (x - low) * adjoint(site, S, positive) + (x - high) * adjoint(site, S, negative)
    if divides_exactly():  # of a constant image every pixel is an extreme one, and all Z are 0
        blank = -torch.sign(torch.sum(nonzero(Z), site.output_dims, True)) + 1.0
        size = torch.abs(weight)
        relevance = relevance + adjoint(site, div(phi * blank, apply(site, ones_like_input(site), size)), size)
    return to_first(site, relevance)


def _at_extreme(site: Site, extreme: Value, weight: Value) -> Value:
    """L applied to the sample's extreme value at every entry."""
    return extreme * apply(site, ones_like_input(site), weight)


def ones_like_input(site: Site) -> Value:
    """One sample of ones, shaped like the layer's input."""
    shape = [size if isinstance(size, int) else 1 for size in site.x_type.shape]
    return torch.ops.aten.new_ones.default(site.weight, shape)


@rule("Φ", "Φ = x ⊙ ∂ŷ_t/∂x  (eq. 8)", promise=Promise.STARTS, faithful=True, source=AGF)
def initial_attribution(site: Site, phi: Value) -> Messages:
    """The head's rule: relevance starts as input times gradient."""
    return to_first(site, site.x * site.sent[GRADIENT].handed[0])


def to_first(site: Site, phi: Value) -> Messages:
    """Relevance for the first operand alone; a product with a constant matrix has another."""
    return (phi, *(None for _ in site.operands[1:]))
