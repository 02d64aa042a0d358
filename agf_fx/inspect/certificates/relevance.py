"""Certificates of relevance rules: of layers, of what stands between them, of the family of LRP."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.layers import (
    LINEAR,
    LINEAR_3,
    Case,
    Constant,
    call,
    case,
    linear,
    linear_of_both_signs,
    linear_of_three,
    linear_with_gradient,
)
from agf_fx.inspect.certificates.laws import (
    CONSERVED,
    SUM_IN,
    Formula,
    Lost,
    Quotient,
    equals,
    negative,
    nonzero,
    positive,
    scale_free,
    sums,
)
from agf_fx.inspect.certificates.symbolic import Number, number, symbols, total
from agf_fx.rules.rule import Promise, Rule

aten = torch.ops.aten
PHI_Z = r"\Phi_j / z_j"


def parameter(rule: Rule, name: str) -> Number:
    """A parameter of a rule, as the rational number that it is."""
    return number(dict(rule.parameters)[name])


def layer_cases() -> tuple[Case, ...]:
    """Linear layers with a bias, by signs; and one without."""
    return (*linear(bias=True), linear()[0])


def rescaled(case: Case, scale: np.ndarray) -> Case:
    """The layer with its outputs scaled, and the same message."""
    return Case(case.about, _scaled_site(case, scale), case.message, case.values)


def _scaled_site(case: Case, scale: np.ndarray):  # noqa: ANN202
    bias = None if case.bias is None else Constant(case.bias * scale)
    return call(aten.linear.default, case.x, Constant(case.weight * scale[:, None]), bias)


def sum_promised(rule: Rule, cases: Callable, layer: str, lost: Lost | None = None, latex: str = "") -> Claim:
    """What the rule's own promise says of the sum: without a loss that is known, all of it."""
    biases = rule.promise in (Promise.SAVE_BIASES, Promise.BOTH_SIGNS_SAVE_BIASES)
    says = f"{rule.promise}" + (", which take exactly their share of every denominator" if biases else "")
    return sums(cases, layer, lost if biases else None, says, latex if biases and latex else CONSERVED)


# By the sizes of contributions


def _by_size(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
    x, weight = np.abs(case.x), np.abs(case.weight)
    return [x * (over(phi, x @ weight.T) @ weight)]


BY_SIZE = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{|x_i w_{ji}|}{\sum_k |x_k w_{jk}|} \Phi_j"


def by_size(rule: Rule) -> tuple[Claim, ...]:
    """C of AGF, and RAP's rule of pointwise convolutions."""
    both = functools.partial(scale_free, lambda: linear()[:2], LINEAR, rescaled)
    return (
        sum_promised(rule, layer_cases, LINEAR),
        equals(layer_cases, LINEAR, _by_size, "each input by the size of its contribution (eq. 9)", BY_SIZE),
        both(signs=(1, -1)),
    )


# z^B


def _box(low: Number | None, high: Number | None) -> Formula:
    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        ordered = sorted(case.x.flat, key=lambda entry: entry.value)
        least, most = low or ordered[0], high or ordered[-1]
        shares = (case.x - least) * positive(case.weight) + (case.x - most) * negative(case.weight)
        return [over(phi, shares.sum(1)[None]) @ shares]

    return formula


BOX = (
    r"\Phi^{\mathrm{in}}_i = \sum_j \frac{z_{ji}}{\sum_k z_{jk}} \Phi_j,\quad "
    r"z_{ji} = x_i w_{ji} - l w_{ji}^+ - h w_{ji}^-"
)


def z_box(rule: Rule) -> tuple[Claim, ...]:
    """The rule of bounded inputs, whose bounds are given or those of the sample."""
    known = dict(rule.parameters)
    bounds = [number(known[name]) if name in known else None for name in ("l", "h")]
    return (
        sum_promised(rule, linear_of_three, LINEAR_3),
        equals(linear_of_three, LINEAR_3, _box(*bounds), "each input by what it adds to the bound that it could be", BOX),
        scale_free(linear_of_three, LINEAR_3, rescaled, (1, 1)),
    )


# LRP


def _epsilon(bias: bool) -> Formula:
    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        return [case.x * (over(phi, _z(case, bias)) @ case.weight)]

    return formula


def _z(case: Case, bias: bool) -> np.ndarray:
    z = case.x @ case.weight.T
    return z + case.bias if bias and case.bias is not None else z


def _of_bias(bias: np.ndarray | None, quotients: np.ndarray) -> Number:
    return number(0) if bias is None else total((quotients * bias).flat)


def epsilon(rule: Rule) -> tuple[Claim, ...]:
    """LRP-ε."""
    bias = rule.promise is Promise.SAVE_BIASES

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        return _of_bias(case.bias, over(phi, _z(case, bias)))

    formula = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{x_i w_{ji}}{z_j \pm \varepsilon} \Phi_j"
    return (
        sum_promised(rule, layer_cases, LINEAR, lost, rf"{SUM_IN} = \sum_j \Phi_j (1 - b_j / z_j)"),
        equals(layer_cases, LINEAR, _epsilon(bias), "each input by its share of the output (eq. 58)", formula),
        scale_free(lambda: linear()[:2], LINEAR, rescaled, (1, -1)),
    )


def _sides(case: Case, bias: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Contributions (outputs, inputs) of either sign, and what they sum to with the parts of the bias."""
    products = case.x * case.weight
    ahead, behind = positive(products), negative(products)
    own = case.bias if bias and case.bias is not None else np.array([number(0)] * len(products))
    return ahead, behind, ahead.sum(1)[None] + positive(own), behind.sum(1)[None] + negative(own)


def _weights(rule: Rule, z_ahead: np.ndarray, z_behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the two parts count at each output: α and -β; in the lossless rule 1 and 0 where there is only one."""
    known = dict(rule.parameters)
    alpha, beta = number(known.get("α", 1)), number(known.get("β", 0))
    one, none = np.full(z_ahead.shape, number(1)), np.full(z_ahead.shape, number(0))
    if not known.get("lossless"):
        return one * alpha, one * -beta
    both, only_behind = nonzero(z_ahead) * nonzero(z_behind), (1 - nonzero(z_ahead)) * nonzero(z_behind)
    return np.where(both.astype(bool), one * alpha, np.where(only_behind.astype(bool), none, one)), np.where(
        both.astype(bool), one * -beta, np.where(only_behind.astype(bool), one, none)
    )


ALPHA_BETA = (
    r"\Phi^{\mathrm{in}}_i = \sum_j \left(\alpha \frac{(x_i w_{ji})^+}{z_j^+} - \beta \frac{(x_i w_{ji})^-}{z_j^-}\right)"
    r" \Phi_j"
)


def alpha_beta(rule: Rule) -> tuple[Claim, ...]:
    """LRP-αβ and z⁺, as published and lossless, with and without biases."""
    bias = rule.promise in (Promise.SAVE_BIASES, Promise.BOTH_SIGNS_SAVE_BIASES)
    lossless = rule.promise in (Promise.CONSERVES, Promise.SAVE_BIASES)

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        ahead, behind, z_ahead, z_behind = _sides(case, bias)
        counts = _weights(rule, z_ahead, z_behind)
        return [over(phi * counts[0], z_ahead) @ ahead + over(phi * counts[1], z_behind) @ behind]

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        _, _, z_ahead, z_behind = _sides(case, bias)
        counts = _weights(rule, z_ahead, z_behind)
        if case.bias is None:
            return number(0)
        of_ahead = total((over(phi * counts[0], z_ahead) * positive(case.bias)).flat)
        return of_ahead + total((over(phi * counts[1], z_behind) * negative(case.bias)).flat)

    share = rf"{SUM_IN} = \sum_j \Phi_j (1 - \alpha b_j^+ / z_j^+ + \beta b_j^- / z_j^-)"
    cases = layer_cases if lossless else lambda: (*linear_of_both_signs(bias=True), linear_of_both_signs()[1])
    claims = (
        sum_promised(rule, cases, LINEAR, lost, share),
        equals(
            layer_cases,
            LINEAR,
            formula,
            "positive contributions by their share of z⁺, negative ones by theirs of z⁻ (eq. 60)",
            ALPHA_BETA,
        ),
    )
    if lossless:
        return claims
    return (*claims, _one_sign(rule))


@functools.cache
def _of_one_sign() -> tuple[Case, ...]:
    rows = (
        ("nothing speaks against the output", ((1, 2),), True),
        ("nothing speaks for the output", ((-1, -2),), False),
    )
    x = symbols("x", [[2, 3]])
    return tuple(
        case(about, call(aten.linear.default, x, Constant(symbols("W", weight)), None), ahead=ahead)
        for about, weight, ahead in rows
    )


def _one_sign(rule: Rule) -> Claim:
    known = dict(rule.parameters)
    alpha, beta = number(known.get("α", 1)), number(known.get("β", 0))

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        return total(phi.flat) * (number(1) - (alpha if case.ahead else -beta))

    says = "of an output whose contributions have one sign, α Φ or -β Φ is handed on"
    return sums(_of_one_sign, "linear layer, 2 inputs, 1 output", lost, says, rf"{SUM_IN} \in \{{\alpha\Phi, -\beta\Phi\}}")


def z_minus(rule: Rule) -> tuple[Claim, ...]:
    """z⁺ of the negated layer."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        against = -negative(case.x * case.weight)
        return [over(phi, against.sum(1)[None]) @ against]

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        return total(phi.flat) if case.ahead else number(0)

    return (
        equals(
            layer_cases,
            LINEAR,
            formula,
            "each input by its share of what speaks against the output",
            r"\Phi^{\mathrm{in}}_i = \sum_j \frac{(x_i w_{ji})^-}{z_j^-} \Phi_j",
        ),
        sums(
            linear_of_both_signs,
            LINEAR,
            None,
            "may lose by masking: nothing where something speaks against every output",
        ),
        sums(
            _of_one_sign,
            "linear layer, 2 inputs, 1 output",
            lost,
            "may lose by masking: all of an output that nothing speaks against",
            rf"{SUM_IN} = 0",
        ),
    )


def gamma(rule: Rule) -> tuple[Claim, ...]:
    """LRP-γ."""
    bias = rule.promise is Promise.SAVE_BIASES

    def parts(case: Case) -> tuple[np.ndarray, np.ndarray]:
        """Contributions scaled by 1 + γ where they have the sign of the output, and those of the bias."""
        more = parameter(rule, "γ")
        z = _z(case, bias)
        ahead = np.frompyfunc(lambda n: number(int(n.value >= 0)), 1, 1)(z)[0]
        behind = number(1) - ahead

        def scaled(a: np.ndarray, ahead: np.ndarray, behind: np.ndarray) -> np.ndarray:
            return a + (positive(a) * ahead + negative(a) * behind) * more

        products = scaled(case.x * case.weight, ahead[:, None], behind[:, None])
        own = np.array([number(0)] * len(products)) if case.bias is None or not bias else case.bias
        return products, scaled(own, ahead, behind)

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        products, own = parts(case)
        return [over(phi, products.sum(1)[None] + own) @ products]

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        products, own = parts(case)
        return total((over(phi, products.sum(1)[None] + own) * own).flat)

    says = "each input by its contribution, which counts 1 + γ times where it has the sign of the output"
    latex = (
        r"\Phi^{\mathrm{in}}_i = \sum_j \frac{c_{ji}}{\sum_k c_{jk} + c_{jb}} \Phi_j,\quad "
        r"c_{ji} = x_i w_{ji} + \gamma (x_i w_{ji})^{\operatorname{sign} z_j}"
    )
    return (
        sum_promised(rule, _without_zeros, LINEAR, lost, rf"{SUM_IN} = \sum_j \Phi_j (1 - c_{{jb}} / (\sum_k c_{{jk}} + c_{{jb}}))"),
        equals(_without_zeros, LINEAR, formula, says, latex),
    )


def _without_zeros() -> tuple[Case, ...]:
    return (*linear(bias=True)[:4], linear()[0])


def w_square(rule: Rule) -> tuple[Claim, ...]:
    """LRP-w²."""
    bias = rule.promise is Promise.SAVE_BIASES

    def z(case: Case) -> np.ndarray:
        found = (case.weight * case.weight).sum(1)[None]
        return found + case.bias * case.bias if bias and case.bias is not None else found

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        return [over(phi, z(case)) @ (case.weight * case.weight)]

    def lost(case: Case, phi: np.ndarray, over: Quotient) -> Number:
        return number(0) if case.bias is None else total((over(phi, z(case)) * case.bias * case.bias).flat)

    latex = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{w_{ji}^2}{\sum_k w_{jk}^2 + b_j^2} \Phi_j"
    return (
        sum_promised(rule, layer_cases, LINEAR, lost, rf"{SUM_IN} = \sum_j \Phi_j (1 - b_j^2 / (\sum_k w_{{jk}}^2 + b_j^2))"),
        equals(layer_cases, LINEAR, formula, "each input by the square of its weight", latex),
    )


def flat(rule: Rule) -> tuple[Claim, ...]:
    """LRP-♭."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        ones = np.full(case.weight.shape, number(1))
        return [over(phi, ones.sum(1)[None]) @ ones]

    latex = r"\Phi^{\mathrm{in}}_i = \sum_j \frac{1}{n_j} \Phi_j"
    return (
        sum_promised(rule, layer_cases, LINEAR),
        equals(layer_cases, LINEAR, formula, "the n inputs that an output reads get the same", latex),
    )


def initial_attribution(rule: Rule) -> tuple[Claim, ...]:
    """Where the relevance of AGF starts."""

    def formula(case: Case, phi: np.ndarray, over: Quotient) -> list[np.ndarray | None]:
        target = next(place for place, part in enumerate(case.message) if part[0, 0] is phi[0, 0])
        gradient = case.site.sent["gradient"].received.entries[target]
        return [case.x * (gradient @ case.weight)]

    latex = r"\Phi_i = x_i \sum_j w_{ji} \frac{\partial \hat y_t}{\partial y_j}"
    return (
        equals(linear_with_gradient, LINEAR, formula, "starts as input times gradient (eq. 8), whatever it is handed", latex),
    )


CLAIMS: dict[str, Callable[[Rule], tuple[Claim, ...]]] = {
    "agf_fx.rules.propagation:flat": by_size,
    "agf_fx.rules.rap:pointwise": by_size,
    "agf_fx.rules.propagation:z_box": z_box,
    "agf_fx.rules.propagation:initial_attribution": initial_attribution,
    "agf_fx.rules.lrp:z_box.<locals>.z_box_": z_box,
    "agf_fx.rules.lrp:epsilon_rule.<locals>.epsilon_": epsilon,
    "agf_fx.rules.lrp:alpha_beta.<locals>.alpha_beta_": alpha_beta,
    "agf_fx.rules.lrp:z_minus.<locals>.z_minus_": z_minus,
    "agf_fx.rules.lrp:gamma_rule.<locals>.gamma_": gamma,
    "agf_fx.rules.lrp:w_square.<locals>.w_square_": w_square,
    "agf_fx.rules.lrp:flat.<locals>.flat_": flat,
}
