"""Layer-wise relevance propagation: rules of convolutions and linear layers, and of what stands between them.

A layer computes z = Lx + b. x⁺, L⁺ are positive parts and x⁻, L⁻ negative ones. Every rule is made by a function of its
parameters, divides with a stabiliser ε of the denominator's sign, and says in its name what it was made with.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from agf_fx.errors import OptionsError
from agf_fx.options import require_number
from agf_fx.rules import propagation
from agf_fx.rules.gradients import vjp
from agf_fx.rules.linear_maps import adjoint, adjoint_by_sign, apply, apply_by_sign, taps
from agf_fx.rules.numerics import Division, Value, div, nonzero
from agf_fx.rules.propagation import ones_like_input, to_first
from agf_fx.rules.rule import Messages, Promise, Rule, rule
from agf_fx.rules.site import Site

EPSILON = 1e-6
"""The usual stabiliser."""

BACH = "Bach et al. 2015"


def signed(epsilon: float) -> Division:
    """Division by b ± ε, with the sign of b; exact where ε is 0."""
    require_number("epsilon", epsilon, least=0)
    return Division("signed", epsilon) if epsilon else Division("exact", 0.0)


def epsilon_rule(epsilon: float = EPSILON, *, bias: bool = True) -> Rule:
    """LRP-ε (Bach et al. 2015, eq. 58): Φ_in = x ⊙ Lᵀ(Φ / (z ± ε)).

    Args:
        epsilon: ε.
        bias: whether z has the layer's bias, which then takes its part of the relevance.
    """

    @rule(
        "Φ",
        "Φ_in = x ⊙ Lᵀ(Φ / (z ± ε)), z = Lx + b  (eq. 58)" if bias else "Φ_in = x ⊙ Lᵀ(Φ / (Lx ± ε))  (eq. 58)",
        promise=Promise.SAVE_BIASES if bias else Promise.CONSERVES,
        divides=True,
        faithful=True,
        source=BACH,
    )
    def epsilon_(site: Site, phi: Value) -> Messages:
        z = site.y if bias else apply(site, site.x, site.weight)
        return to_first(site, site.x * adjoint(site, div(site.settled(phi, z), z), site.weight))

    return _named(epsilon_, "epsilon", epsilon)


def alpha_beta(
    alpha: float = 2.0,
    beta: float = 1.0,
    division: Division | None = None,
    *,
    bias: bool = True,
    lossless: bool = False,
) -> Rule:
    """LRP-αβ (Bach et al. 2015, eq. 60), α - β = 1: activating and inhibiting parts apart.

    Φ_in = α (x⁺ ⊙ L⁺ᵀs⁺ + x⁻ ⊙ L⁻ᵀs⁺) - β (x⁺ ⊙ L⁻ᵀs⁻ + x⁻ ⊙ L⁺ᵀs⁻), where s⁺ = Φ / (L⁺x⁺ + L⁻x⁻ + b⁺) and
    s⁻ = Φ / (L⁻x⁺ + L⁺x⁻ + b⁻).

    Where all contributions to an output have one sign, one of the two quotients is 0 / 0. The published rule takes it
    for 0, and so hands on α Φ or -β Φ of Φ; the lossless one hands on Φ by the contributions that there are.

    Args:
        alpha, beta: weights of the two parts.
        division: how it divides; by ε = 1e-6 of the denominator's sign if not given.
        bias: whether the parts of the bias belong to the denominators.
        lossless: whether outputs whose contributions have one sign hand on all of their relevance.
    """

    @rule(
        "Φ",
        "Φ_in = α (x⁺ ⊙ L⁺ᵀs⁺ + x⁻ ⊙ L⁻ᵀs⁺) - β (x⁺ ⊙ L⁻ᵀs⁻ + x⁻ ⊙ L⁺ᵀs⁻), s± = Φ / z±  (eq. 60)"
        + (", α = 1 where z⁻ = 0, β = -1 where z⁺ = 0" if lossless else ""),
        promise=_PROMISES[lossless, bias],
        divides=True,
        source=BACH,
    )
    def alpha_beta_(site: Site, phi: Value) -> Messages:
        positive, negative = torch.clamp_min(site.weight, 0), torch.clamp_max(site.weight, 0)
        own = site.bias if bias else None
        ahead = positive, negative, None if own is None else torch.clamp_min(own, 0)
        behind = negative, positive, None if own is None else torch.clamp_max(own, 0)
        if lossless:
            speaks, against = nonzero(_sum(site, *ahead)), nonzero(_sum(site, *behind))
            both = speaks * against
            weights = both * alpha + (-against + 1), against - both * (beta + 1)  # without any, 1 and 0
            found = _part(site, phi * weights[0], *ahead)
            return to_first(site, found + _part(site, phi * weights[1], *behind))
        found = _part(site, phi, *ahead)
        found = found if alpha == 1 else found * alpha
        if beta:
            found = found - _part(site, phi, *behind) * beta
        return to_first(site, found)

    if not (alpha >= 1 and beta >= 0 and abs(alpha - beta - 1) <= 1e-9):
        raise OptionsError(
            f"α is {alpha!r} and β is {beta!r}; give α of 1 or more and β = α - 1, so that LRP conserves."
        )
    parameters = (("α", alpha), ("β", beta), *_if_lossless(lossless))
    return replace(alpha_beta_, name="alpha_beta", parameters=parameters).divided(division or signed(EPSILON))


_PROMISES = {
    (False, False): Promise.BOTH_SIGNS,
    (False, True): Promise.BOTH_SIGNS_SAVE_BIASES,
    (True, False): Promise.CONSERVES,
    (True, True): Promise.SAVE_BIASES,
}
"""Of αβ, by whether it is lossless and whether biases take a part."""


def _if_lossless(lossless: bool) -> tuple[tuple[str, object], ...]:
    return (("lossless", True),) if lossless else ()


def z_plus(epsilon: float = EPSILON, *, bias: bool = True, lossless: bool = False) -> Rule:
    """LRP-z⁺ (Montavon et al. 2017): the activating part alone, αβ with α = 1 and β = 0; see there for ``lossless``."""
    made = replace(alpha_beta(1.0, 0.0, bias=bias, lossless=lossless), source="Montavon et al. 2017")
    return _named(made, "z_plus", epsilon, *_if_lossless(lossless))


def z_minus(epsilon: float = EPSILON) -> Rule:
    """The z⁺ rule of the layer with its weights negated, without bias: what speaks against an output."""

    @rule(
        "Φ",
        "Φ_in = x⁺ ⊙ L⁻ᵀs + x⁻ ⊙ L⁺ᵀs, s = Φ / (L⁻x⁺ + L⁺x⁻)",
        promise=Promise.MASKS,
        divides=True,
        source="Zhang et al. 2018",
    )
    def z_minus_(site: Site, phi: Value) -> Messages:
        positive, negative = -torch.clamp_max(site.weight, 0), -torch.clamp_min(site.weight, 0)
        return to_first(site, _part(site, phi, positive, negative, None))

    return _named(z_minus_, "z_minus", epsilon)


def _part(site: Site, phi: Value, ahead: Value, behind: Value, bias: Value | None) -> Value:
    """x⁺ ⊙ Aᵀs + x⁻ ⊙ Bᵀs, s = Φ / (Ax⁺ + Bx⁻ + bias), for the maps A and B with weights ``ahead`` and ``behind``."""
    z = _sum(site, ahead, behind, bias)
    s = div(site.settled(phi, z), z)
    return adjoint_by_sign(site, s, ahead, behind)


def _sum(site: Site, ahead: Value, behind: Value, bias: Value | None) -> Value:
    """Ax⁺ + Bx⁻ + bias, for the maps A and B with weights ``ahead`` and ``behind``."""
    z = apply_by_sign(site, ahead, behind)
    return z if bias is None else z + _per_output(site, bias)


def _per_output(site: Site, bias: Value) -> Value:
    """A bias (outputs,) so that it adds to outputs (N, outputs, *positions), or (N, ..., outputs) of a linear layer."""
    spatial = 0 if site.node.target is torch.ops.aten.linear.default else site.y_type.rank - 2
    return torch.reshape(bias, [-1, *[1] * spatial]) if spatial else bias


def flat(epsilon: float = EPSILON) -> Rule:
    """LRP-♭ (Lapuschkin et al. 2019): every input that an output reads gets the same, Φ_in = 1ᵀ(Φ / 1·1)."""

    @rule(
        "Φ",
        "Φ_in = Jᵀ(Φ / J1), J = L with all weights 1",
        promise=Promise.CONSERVES,
        divides=True,
        source="Lapuschkin et al. 2019",
    )
    def flat_(site: Site, phi: Value) -> Messages:
        ones = taps(site)
        count = apply(site, ones_like_input(site), ones)
        return to_first(site, adjoint(site, div(site.settled(phi, count), count), ones))

    return _named(flat_, "flat", epsilon)


def gamma_rule(gamma: float = 0.25, epsilon: float = EPSILON, *, bias: bool = True) -> Rule:
    """LRP-γ (Montavon et al. 2019), for inputs of either sign: what has the sign of the output counts 1 + γ times.

    Where z ≥ 0, positive contributions and the positive part of the bias are scaled by 1 + γ, where z < 0 negative
    ones; Φ is divided by what is so made of z. For inputs ≥ 0 and positive outputs that is
    x ⊙ (L + γL⁺)ᵀ(Φ / (z + γz⁺)).
    """

    @rule(
        "Φ",
        "Φ_in = x⁺ ⊙ (L + γL±)ᵀs± + x⁻ ⊙ (L + γL∓)ᵀs±, s⁺ = [z ≥ 0] Φ / (z + γz⁺), s⁻ = [z < 0] Φ / (z + γz⁻)",
        promise=Promise.SAVE_BIASES if bias else Promise.CONSERVES,
        divides=True,
        source="Montavon et al. 2019",
    )
    def gamma_(site: Site, phi: Value) -> Messages:
        weight, own = site.weight, site.bias if bias else None
        positive, negative = torch.clamp_min(weight, 0), torch.clamp_max(weight, 0)
        ahead, behind = weight + positive * gamma, weight + negative * gamma
        z = site.y if bias else apply(site, site.x, weight)
        against = -torch.clamp_max(torch.sign(z), 0)
        shifts = (None, None)
        if own is not None:
            shifts = own + torch.clamp_min(own, 0) * gamma, own + torch.clamp_max(own, 0) * gamma
        found = _part(site, phi * (-against + 1), ahead, behind, shifts[0])
        return to_first(site, found + _part(site, phi * against, behind, ahead, shifts[1]))

    require_number("gamma", gamma, least=0)
    made = replace(gamma_, name="gamma", parameters=(("γ", gamma), ("ε", epsilon)))
    return made.divided(signed(epsilon))


def w_square(epsilon: float = EPSILON, *, bias: bool = True) -> Rule:
    """LRP-w² (Montavon et al. 2017): every input by its squared weight, whatever its value."""

    @rule(
        "Φ",
        "Φ_in = (L²)ᵀ(Φ / (L²1 + b²))" if bias else "Φ_in = (L²)ᵀ(Φ / L²1)",
        promise=Promise.SAVE_BIASES if bias else Promise.CONSERVES,
        divides=True,
        source="Montavon et al. 2017",
    )
    def w_square_(site: Site, phi: Value) -> Messages:
        squares = site.weight * site.weight
        z = apply(site, ones_like_input(site), squares)
        if bias and site.bias is not None:
            z = z + _per_output(site, site.bias * site.bias)
        return to_first(site, adjoint(site, div(site.settled(phi, z), z), squares))

    return _named(w_square_, "w_square", epsilon)


def z_box(low: float, high: float, epsilon: float = EPSILON) -> Rule:
    """LRP-z^B (Montavon et al. 2017), for inputs between ``low`` and ``high``.

    Φ_in = x ⊙ Lᵀs - l L⁺ᵀs - h L⁻ᵀs, s = Φ / (Lx - L⁺l - L⁻h).

    Raises:
        OptionsError: ``low`` is not below ``high``.
    """
    require_number("low", low)
    require_number("high", high, above=low)

    @rule(
        "Φ",
        "Φ_in = x ⊙ Lᵀs - l L⁺ᵀs - h L⁻ᵀs, s = Φ / (Lx - L⁺l - L⁻h)",
        promise=Promise.CONSERVES,
        divides=True,
        source="Montavon et al. 2017",
    )
    def z_box_(site: Site, phi: Value) -> Messages:
        positive, negative = torch.clamp_min(site.weight, 0), torch.clamp_max(site.weight, 0)
        above, below = site.x - low, site.x - high
        z = apply(site, above, positive) + apply(site, below, negative)
        s = div(site.settled(phi, z), z)
        return to_first(site, above * adjoint(site, s, positive) + below * adjoint(site, s, negative))

    made = replace(z_box_, name="z_box", parameters=(("l", low), ("h", high), ("ε", epsilon)))
    return made.divided(signed(epsilon))


def norm(epsilon: float = EPSILON) -> Rule:
    """Sums and averages by the terms' shares of the result: Φ_in = x ⊙ fᵀ(Φ / (f(x) ± ε))."""
    made = replace(propagation.proportional, equation="Φ_in = x ⊙ fᵀ(Φ / (f(x) ± ε))", source=BACH)
    return _named(made, "norm", epsilon)


@rule("Φ", "Φ_in = fᵀΦ: all to the entry that was selected", promise=Promise.CONSERVES, faithful=True, source=BACH)
def winner(site: Site, phi: Value) -> Messages:
    """Maxima: the winner takes all, as the gradient has it."""
    return vjp(site, phi)


def _named(made: Rule, name: str, epsilon: float, *further: tuple[str, object]) -> Rule:
    """A rule that divides by b ± ε, and says so in its name."""
    return replace(made, name=name, parameters=(("ε", epsilon), *further)).divided(signed(epsilon))
