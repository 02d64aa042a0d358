"""Certificates: every rule has one, each is proved by the rule's own code on symbols, and a broken rule fails its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import sympy
import torch

import agf_fx
from agf_fx.inspect import certificates
from agf_fx.inspect.certificates.claims.layers import rescaled
from agf_fx.inspect.certificates.laws import sums
from agf_fx.inspect.certificates.layers import Constant, call, case, linear, linear_of_three, messages
from agf_fx.inspect.certificates.numbers import Number, is_zero, number, sign, symbols, total
from agf_fx.inspect.certificates.symbolic import Symbolic
from agf_fx.inspect.certificates.vanishing import vanishes
from agf_fx.ir.vocabulary import VOCABULARY
from agf_fx.rules import agf, factorisation, gradients, linear_maps, lrp, numerics, propagation
from agf_fx.rules.merging import Merge
from agf_fx.rules.register import registered_rules
from agf_fx.rules.rule import Promise, Rule, rule

aten = torch.ops.aten


def label(subject):
    name = str(subject) if isinstance(subject, Rule) else getattr(subject, "name", getattr(subject, "__name__", ""))
    return f"{name} {subject.promise}" if isinstance(subject, Rule) else name


BUILT_IN = [subject for name, subject in certificates.subjects() if name != "registered"]
each_subject = pytest.mark.parametrize("subject", BUILT_IN, ids=label)


# Every rule has a certificate, and it holds


@each_subject
def test_a_rule_has_a_certificate_that_is_proved(subject):
    certificate = certificates.of(subject)
    assert certificate is not None, f"{label(subject)} has no certificate: say what it promises"
    assert certificate.claims
    assert certificate.unclaimed is None, f"no claim of {label(subject)} is about what it promises"
    for claim, residual in certificate.proofs():
        assert residual == 0, (claim.says, claim.layer, residual)
        assert min(map(len, (claim.says, claim.layer, claim.latex))) > 3


def test_every_rule_of_the_rooms_is_a_subject():
    """Rules that stand in a module, and no method has, are found here."""
    functions = {subject.function for subject in BUILT_IN if isinstance(subject, Rule | Merge)}
    for name, module in sys.modules.items():
        if name.startswith("agf_fx.rules."):
            for found in vars(module).values():
                assert not isinstance(found, Rule) or found.function in functions, found


def test_what_no_method_has_is_no_certificate():
    """A method whose rule nobody has certified is told."""
    stranger = Rule(lambda site, phi: (phi,), "flat", promise=Promise.CONSERVES)
    assert certificates.of(stranger) is None
    assert certificates.of(lambda y, target: y) is None


# A broken rule fails


def broken(subject, change):
    """The subject with ``change(site or None, arrays) -> arrays`` of what it returns."""
    if isinstance(subject, Rule):

        def function(site, message):
            found = subject.function(site, message)
            arrays = change(site, [None if part is None else part.entries.copy() for part in found])
            return tuple(None if array is None else Symbolic(array) for array in arrays)

        return replace(subject, function=function)
    function = subject.function if isinstance(subject, Merge) else subject

    def changed(*args):
        return Symbolic(*change(None, [function(*args).entries.copy()]))

    return replace(subject, function=changed) if isinstance(subject, Merge) else changed


def first(arrays):
    """The first array, and where it is not 0."""
    array = next(array for array in arrays if array is not None)
    return array, next((index for index in np.ndindex(*array.shape) if array[index].expression), (0,) * array.ndim)


def doubled(site, arrays):
    array, index = first(arrays)
    array[index] = array[index] * 2 + 1
    return arrays


def negated(site, arrays):
    return [None if array is None else -array for array in arrays]


def moved(site, arrays):
    """From one entry to the next, or to the other operand: the sum stays."""
    array, index = first(arrays)
    size = array[0].size
    if size > 1:
        array[0].flat[0], array[0].flat[1] = array[0].flat[0] + 1, array[0].flat[1] - 1
    elif len(arrays) > 1 and arrays[1] is not None:
        arrays[0][index], arrays[1][index] = arrays[0][index] + 1, arrays[1][index] - 1
    else:
        array[index] = array[index] + 1
    return arrays


@pytest.mark.parametrize("change", [doubled, negated, moved], ids=lambda change: change.__name__)
@each_subject
def test_a_broken_rule_fails_its_certificate(subject, change):
    claims = certificates.of(subject).claims
    mutant = broken(subject, change)
    assert any(not claim.holds(mutant) for claim in claims), label(subject)


def with_weights(site, arrays):
    """What depends on the scale of weights."""
    array, index = first(arrays)
    array[index] = array[index] + site.weight.entries.flat[0]
    return arrays


def on_convolutions(site, arrays):
    return doubled(site, arrays) if site.node.target is aten.conv1d.default else arrays


def twice(function):
    def changed(*args):
        found = function(*args)
        return tuple(part * 2 for part in found) if isinstance(found, tuple) else found * 2

    return changed


def plus_weight(function):
    return lambda site, phi: function(site, phi) + torch.sum(site.weight, [0, 1, 2])


def plus_one(function):
    return lambda *args: function(*args) + 1


# Claims about the parts of a rule, which it calls: where to break them
PARTS = {
    "A is conserved": (agf, "input_agnostic_influence", twice),
    "C and A are invariant": (propagation, "absolute_influence", plus_weight),
    "the closed form": (factorisation, "_ridge", twice),
    "that of the paper's dialect": (factorisation, "_least_squares", twice),
    "output padding": (linear_maps, "unread", plus_one),
}
OF_NO_CODE = "which misses the sum by"  # a theorem, by which a rule may do what it does


@each_subject
def test_no_claim_is_empty(subject, monkeypatch):
    """Each claim fails for one of the broken rules, or where a part of the rule is broken."""
    for claim in certificates.of(subject).claims:
        if claim.says.startswith(OF_NO_CODE):
            continue
        part = next((PARTS[start] for start in PARTS if claim.says.startswith(start)), None)
        if part is not None:
            module, name, change = part
            with monkeypatch.context() as patch:
                patch.setattr(module, name, change(getattr(module, name)))
                assert not claim.holds(subject), claim.says
        else:
            kinds = {"invariant under batch-norm folding": [with_weights], "a convolution whose": [on_convolutions]}
            changes = next((kinds[start] for start in kinds if claim.says.startswith(start)), [doubled, negated, moved])
            assert any(not claim.holds(broken(subject, change)) for change in changes), claim.says


def without_bias(subject):
    """The rule of a layer that has forgotten its bias."""

    def function(site, message):
        if site.node.target is not aten.linear.default:
            site = replace(site, args=(*site.args[:3], None, *site.args[4:]))
        else:
            site = replace(site, args=(*site.args[:2], None))
        return subject.function(replace(site, output=site.node.target(*site.args)), message)

    return replace(subject, function=function)


TAKES_BIASES = [
    subject
    for subject in BUILT_IN
    if isinstance(subject, Rule) and subject.promise in (Promise.SAVE_BIASES, Promise.BOTH_SIGNS_SAVE_BIASES)
]


@pytest.mark.parametrize("subject", TAKES_BIASES, ids=label)
def test_a_rule_that_forgets_biases_fails(subject):
    assert TAKES_BIASES
    claims = [claim for claim in certificates.of(subject).claims if claim.promise is subject.promise]
    assert any(not claim.holds(without_bias(subject)) for claim in claims)


@pytest.mark.parametrize(
    ("lie", "wrong"),
    [
        (lrp.epsilon_rule(), Promise.CONSERVES),
        (lrp.alpha_beta(2.0, 1.0), Promise.CONSERVES),
        (lrp.alpha_beta(2.0, 1.0, bias=False), Promise.CONSERVES),
        (lrp.w_square(), Promise.CONSERVES),
        (propagation.scaled, Promise.CONSERVES),
        (propagation.softmax, Promise.CONSERVES),
        (gradients.chain_rule, Promise.CONSERVES),
        (lrp.z_minus(), Promise.SHIFTS),
    ],
    ids=lambda value: str(value),
)
def test_a_rule_that_promises_too_much_has_no_proof(lie, wrong):
    assert certificates.of(lie).holds
    assert not certificates.of(replace(lie, promise=wrong)).holds


# What is no rule, and laws that do not hold


def test_delta_shift_keeps_the_sum_of_each_target():
    C, r = symbols("C", np.arange(1, 13).reshape(2, 1, 2, 3)), symbols("r", np.arange(2, 14).reshape(2, 1, 2, 3))
    for index in ((0, 0, 0, 1), (0, 0, 1, 2)):
        C[index] = r[index] = number(0)
    shifted = numerics.delta_shift(Symbolic(C), Symbolic(r), 3).entries
    assert is_zero(shifted[0, 0, 0, 0] - (C[0, 0, 0, 0] + r[0, 0, 0, 0] - total(r[0].flat) / 4))
    assert is_zero(shifted[1, 0, 0, 0] - (C[1, 0, 0, 0] + r[1, 0, 0, 0] - total(r[1].flat) / 6))
    assert shifted[0, 0, 0, 1].expression == 0
    assert all(is_zero(total((shifted - C)[target].flat)) for target in range(2))


@pytest.mark.parametrize("rule", [propagation.z_box, lrp.z_box(-3.0, 3.0)], ids=str)
def test_z_box_depends_on_the_sign_of_the_scale_of_an_output(rule):
    layer = linear_of_three()[0]
    found = messages(rule, layer)[0]
    above, below = (messages(rule, rescaled(layer, symbols("s", [size, 7])))[0] for size in (3, -3))
    assert all(is_zero(entry) for entry in (above - found).flat)
    assert not all(is_zero(entry) for entry in (below - found).flat)


def test_relevance_is_lost_where_all_denominators_are_0():
    """What exact division cannot save: of a layer whose outputs are all 0 nothing is handed on."""
    x = np.array([[number(0), number(0)]])
    blank = case("a blank input", call(aten.linear.default, x, Constant(symbols("W", ((1, 2), (3, -1)))), None))
    assert all(entry.expression == 0 for entry in messages(propagation.flat, blank)[0].flat)


def test_bilinear_hands_on_nothing_in_all_at_a_quotient():
    """So tables have `gated` in front of it: the denominator of a quotient is a gate."""
    a, b = symbols("a", [[2, -3]]), symbols("b", [[5, 1]])
    upper, lower = messages(propagation.bilinear, case("a / b", call(aten.div.Tensor, a, b)))
    assert all(is_zero(entry) for entry in (upper + lower).flat)
    assert not is_zero(upper.flat[0])


# Rules of one's own


@rule("Φ", "Φ_in = x² ⊙ (L²)ᵀ(Φ / L²x²)", promise=Promise.CONSERVES, divides=True, source="this test")
def by_squares(site, phi):
    x, weight = site.x * site.x, site.weight * site.weight
    y = linear_maps.apply(site, x, weight)
    return (x * linear_maps.adjoint(site, numerics.div(site.settled(phi, y), y), weight),)


def test_a_rule_of_ones_own_is_certified(monkeypatch):
    monkeypatch.setattr("agf_fx.inspect.certificates.catalogue._OWN", {})
    assert certificates.of(by_squares) is None
    certificates.certify(by_squares, sums(Promise.CONSERVES, linear, "linear layer"))
    certificate = certificates.of(by_squares)
    assert certificate.holds
    assert "W_{1}^{2} x_{1}^{2}" in certificate.computed()
    wrong = certificates.Certificate(broken(by_squares, doubled), certificate.claims)
    assert not wrong.holds


def test_a_registered_rule_without_a_certificate_is_named(monkeypatch):
    monkeypatch.setattr("agf_fx.rules.register._REGISTERED", {})
    monkeypatch.setattr("agf_fx.inspect.certificates.catalogue._OWN", {})
    mine = Rule(lambda site, phi: (phi,), "mine", promise=Promise.CONSERVES)
    with torch.library._scoped_library("certificates", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        op = torch.ops.certificates.twice.default
        for table in (VOCABULARY, gradients.VJPS):  # undone at the end
            monkeypatch.setitem(table, op, None)
        agf_fx.register_rule(op, mine, vjp=lambda site, g: (g * 2,))
        assert registered_rules() == {op: mine}
        assert certificates.uncertified() == [mine]
        certificates.certify(mine, sums(Promise.CONSERVES, lambda: (), "nothing"))
        assert certificates.uncertified() == []


# The algebra

x, y = sympy.symbols("x y", positive=True)


@pytest.mark.parametrize(
    "zero",
    [
        (x + y) ** 2 - x**2 - 2 * x * y - y**2,
        x / (x + y) + y / (x + y) - 1,
        1 / (1 + 1 / (x + y)) - (x + y) / (x + y + 1),
        sympy.sqrt(x + y) ** 3 / sympy.sqrt(x + y) - x - y,
        1 / sympy.sqrt(x**2 + 1) - sympy.sqrt(x**2 + 1) / (x**2 + 1),
        sympy.exp(x) * sympy.exp(y) - sympy.exp(x + y),
        sympy.exp(-x) * sympy.exp(2 * x) - sympy.exp(x),
        1 / (1 + sympy.exp(-x)) - sympy.exp(x) / (1 + sympy.exp(x)),
    ],
    ids=str,
)
def test_what_is_0_vanishes(zero):
    assert vanishes(zero)
    assert not vanishes(zero + x / (1 + y) / 10**9)


@pytest.mark.parametrize("other", [x - y, sympy.sqrt(x), sympy.sqrt(x + 1) - 1, sympy.nan, sympy.zoo, 1 / x], ids=str)
def test_what_is_not_0_does_not_vanish(other):
    assert not vanishes(other)


def test_a_point_where_a_sign_changes_is_refused():
    a, b = symbols("a", [2])[0], symbols("b", [2])[0]
    with pytest.raises(ValueError, match="choose another point"):
        sign(a - b)
    with pytest.raises(ZeroDivisionError):
        a / (b - b)
    assert sign(a * b - b * a) == 0


def test_a_function_that_nobody_has_written_for_symbols_is_named():
    with pytest.raises(NotImplementedError, match=r"cumsum.*FUNCTIONS"):
        torch.cumsum(Symbolic(symbols("x", [[1, 2]])), 1)


def test_numbers_know_their_value():
    a = Number(x, 2.0)
    assert str(1 - a) == "1 - x"
    assert (2 / a).value == 1.0
    assert abs(-a).value == 2.0


def test_looking_up_a_certificate_is_light():
    """No proof is built, and no network captured, by the import alone."""
    program = (
        "import sys, agf_fx.inspect.certificates as c; "
        "print([name for name in sys.modules if '.claims' in name or name in ('torchvision', 'matplotlib.pyplot')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
