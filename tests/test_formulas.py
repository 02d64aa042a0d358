"""Equations of rules, typeset: every one of the code is read without loss, or stays text."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from agf_fx.inspect.formulas import mathml
from agf_fx.methods import REGISTRY

ROOT = Path(__file__).parent.parent
TEXT = {  # equations that are words alone, or that nobody can read for certain
    "Π_l m_l^{w_l}",
    "every baseline, for every image",
    "one baseline for each image",
    "the mean over baselines",
    "the target's logit",
    "m_in = m ⊙ Δy / Δx, (f'(x) + f'(x₀)) / 2 where |Δx| ≤ 1e-4 and ||x| - 3| > 1e-4  (§3.5.2)",
    "Φ_in = |c| / Σ|c| Σc, c_i = x_i w_ti and the bias by the shares of either sign",
    "β - mean γ / √(var + eps), or the layer's own",
}


def linear(element):
    """An element on one line, with {above//below} for fractions, so that a person can check it."""
    tag, parts = element[0].partition(":")[0], element[1:]
    inside = [part if isinstance(part, str) else linear(part) for part in parts]
    forms = {"mfrac": "{{{}//{}}}", "msub": "{}_{}", "munder": "{}_{}", "msup": "{}^{}", "msubsup": "{}_{}^{}"}
    if tag in forms:
        return forms[tag].format(*inside)
    return " " if tag == "mspace" else f"√({inside[0]})" if tag == "msqrt" else "".join(inside)


def equations():
    """All equations in the source, found by how rules, merges and formulas are written."""
    found = {""}
    for path in ROOT.glob("agf_fx/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            given = [word.value for word in node.keywords if word.arg == "equation"]
            given += node.args[1:2] if name in ("formula", "rule") and len(node.args) == 2 else []
            found |= {value.value for value in given if isinstance(value, ast.Constant)}
    for entry in REGISTRY.values():
        for stream in entry.make(entry.options()).streams:
            found |= {rule.equation for _, rule in stream.rules}
    return sorted(found - {""})


@pytest.mark.parametrize("equation", equations())
def test_every_equation_is_typeset_or_known_to_stay_text(equation):
    made = mathml(equation)
    assert (made is None) == (equation in TEXT)
    if made is None:
        return
    assert made[0] == "math"
    bars = linear(made).count("//")
    assert bars == equation.count("/")  # every quotient is one, and nothing else is


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("Φ_in = x ⊙ fᵀ(Φ / f(x))  (eq. 1)", "Φ_in=x⊙f^T({Φ//f(x)}) (eq. 1)"),
        ("C = |x| ⊙ |L|ᵀ(Φ / |L||x|)  (eq. 9)", "C=|x|⊙|L|^T({Φ//|L||x|}) (eq. 9)"),
        ("Φ_a = |a| / (|a| + |b|) ⊙ Φ", "Φ_a={|a|//|a|+|b|}⊙Φ"),
        ("x / (x + ε) ⊙ Σ_i Φ_i", "{x//x+ε}⊙∑_i Φ_i"),
        ("Φ z⁻/z / z⁻", "{Φ {z^−//z}//z^−}"),
        ("1/P everywhere", "{1//P} everywhere"),
        ("Σ_i a_i / b_i", "∑_i {a_i//b_i}"),
        ("Ψ ΣΦ / ΣΨ", "{Ψ ∑Φ//∑Ψ}"),
        ("Σ_c w_p ∂ŷ_t/∂y_c", "∑_c w_p {∂ŷ_t//∂y_c}"),
        ("q = Δp / Δlog p", "q={Δp//Δlog p}"),
        ("c̄ mean(m' c̄) 2s²s₀² / (s + s₀)", "{c̄ mean(m^′ c̄) 2s^2s_0^2//s+s_0}"),
        ("x_u gᵀ_u", "x_u g_u^T"),
        ("(z ± ε), z± = ±L±x", "(z±ε),z^±=±L^±x"),
        ("a / √(b + c)", "{a//√(b+c)}"),
        ("((y - t)/σ)²", "({y−t//σ})^2"),
    ],
)
def test_how_equations_are_read(equation, expected):
    assert linear(mathml(equation)) == expected


@pytest.mark.parametrize(
    "equation",
    [
        "a / b c",
        "max a / b",
        "a /b",
        "a / ",
        "(a",
        "a)",
        "|a",
        "_x",
        "a^b",
        "a → b",
        "a__b",
        "()",
        "ab_c_d",
        "p / Δlogits",
    ],
)
def test_what_cannot_be_read_for_certain_stays_text(equation):
    assert mathml(equation) is None
