"""Certificates in the page: proved of the rules that the graph has, as they are, and typeset."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from test_inspect_page import Net, explainer, image, read
from torch import nn

import agf_fx
from agf_fx.errors import AgfFxError
from agf_fx.inspect import certificates, latex, proofs
from agf_fx.inspect.certificates.laws import equals, sums
from agf_fx.inspect.certificates.layers import LINEAR, linear
from agf_fx.inspect.page_data import page_data
from agf_fx.methods import REGISTRY
from agf_fx.methods.table import RuleTable, op
from agf_fx.rules.propagation import flat
from agf_fx.rules.register import registered_rules
from agf_fx.rules.rule import Promise, Rule

aten = torch.ops.aten


def rules_of(data):
    return {entry["name"]: entry for entry in data["rules"]}


def shown(element):
    if isinstance(element, str):
        return element
    return "".join(map(shown, element[1:]))


# --- what is proved -------------------------------------------------------------------------------------------------


def test_rules_have_their_claims_proved():
    made = explainer()
    data, _ = page_data(made.graph, made._rules)
    found = rules_of(data)
    for name in ("guided_convolution", "z_box", "flat", "selective", "initial_attribution", "normalised_channel_sum"):
        certificate = found[name]["certificate"]
        assert certificate["claims"], name
        assert not certificate["unclaimed"]
        assert [left for *_, left in certificate["claims"]] == [""] * len(certificate["claims"])
    says = [claim[0] for claim in found["flat"]["certificate"]["claims"]]
    assert says == [claim.says for claim in certificates.of(flat).claims]
    assert says[0] == "conserves"
    assert found["flat"]["certificate"]["claims"][0][1] == LINEAR
    assert any("normal equations" in says for says, *_ in found["guided_convolution"]["certificate"]["claims"])


def test_what_belongs_to_no_call_stands_at_the_ends():
    made = explainer()
    data, _ = page_data(made.graph, made._rules)
    rows = {row["name"]: row for row in data["layers"]}
    parts = {
        name: [data["rules"][number]["name"] for *_, number in rows[name]["parts"]] for name in ("(map)", "(target)")
    }
    assert parts == {
        "(map)": ["normalised_channel_sum"],
        "(target)": ["softened_target_gradient", "chain_rule", "fan_out"],
    }


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_rules_are_found_again_by_their_notes(name):
    """What is proved is of the rule that made the graph."""
    try:
        made = agf_fx.compile(Net("other").eval(), torch.zeros(1, 3, 16, 16), method=name)
    except AgfFxError:
        pytest.skip("not for this network")
    calls = {node.name: node for node in made.graph.canonical.calls}
    for stream, notes in made.graph.rules.items():
        for call, note in notes.items():
            assert str(proofs.rule_of(made._rules, stream, calls[call])) == note.name


def test_a_claim_that_does_not_hold_is_not_called_proved():
    def loses(site, phi):
        return (phi * 0.5,)

    broken = Rule(loses, "loses", promise=Promise.CONSERVES)
    certificates.certify(broken, sums(Promise.CONSERVES, linear, LINEAR))
    (proof,) = proofs.proved(broken).proofs
    assert proof.left
    promised = Rule(lambda site, phi: (phi,), "promises", promise=Promise.CONSERVES)
    certificates.certify(promised, equals(linear, LINEAR, lambda case, phi, over: [phi], "itself"))
    assert proofs.proved(promised).unclaimed == "conserves"
    raising = Rule(lambda site, phi: (phi.of_which_there_is_none,), "raises")
    certificates.certify(raising, sums(Promise.CONSERVES, linear, LINEAR))
    (proof,) = proofs.proved(raising).proofs
    assert proof.left.startswith("AttributeError")


def test_a_rule_without_a_certificate_has_none():
    assert proofs.proved(Rule(lambda site, phi: (phi,), "mine")) == proofs.Proved()


class Bessel(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.special.i0(self.conv(x)).mean((2, 3)))


def test_certificates_of_built_in_rules_say_nothing_of_operations_that_are_not():
    with pytest.warns(UserWarning, match="explained by its gradient"):
        made = agf_fx.compile(Bessel().eval(), torch.zeros(1, 3, 8, 8), method="gradient", unknown_ops="gradient")
    data, _ = page_data(made.graph, made._rules)
    row = next(row for row in data["layers"] if "i0" in row["op"])
    ((_, number),) = row["rules"]
    assert data["rules"][number]["certificate"]["claims"] == []
    conv = next(row for row in data["layers"] if row["op"] == "conv2d")
    ((_, number),) = conv["rules"]
    assert data["rules"][number]["certificate"]["claims"]
    assert aten.special_i0.default not in registered_rules()


def test_nothing_is_said_where_the_method_is_not_known():
    data, _ = page_data(explainer().graph)
    assert not any("certificate" in entry for entry in data["rules"])


# --- LaTeX ----------------------------------------------------------------------------------------------------------


def every_latex():
    found = {}
    for _, subject in certificates.subjects():
        certificate = certificates.of(subject)
        for claim in certificate.claims if certificate else ():
            found.setdefault(claim.latex, None)
    return list(found)


def test_every_claim_is_typeset_and_no_letter_is_lost():
    for text in every_latex():
        math = latex.mathml(text)
        assert math is not None, text
        plain = re.sub(
            r"\\(mathrm|mathsf|mathbf|operatorname|text|left|right|t?frac|sqrt|hat|sum|quad)|\\[, ]", " ", text
        )
        plain = re.sub(r"\\(max|min|log)", r"\1", plain)
        plain = re.sub(r"\\bmod", "mod", re.sub(r"\\(?!bmod)[A-Za-z]+", " ", plain))
        assert Counter(re.findall(r"[A-Za-z0-9]", plain)) == Counter(re.findall(r"[A-Za-z0-9]", shown(math))), text


def test_what_code_computes_is_typeset():
    assert latex.mathml(certificates.of(flat).computed()) is not None
    math = latex.mathml(r"\frac{a}{b} \left(- x_{1}^{2} + \sqrt{y}\right)")
    assert math == [
        "math",
        [
            "mrow",
            ["mfrac", ["mi", "a"], ["mi", "b"]],
            [
                "mrow",
                ["mo:fence", "("],
                [
                    "mrow",
                    ["mo:prefix", "−"],
                    ["msubsup", ["mi", "x"], ["mn", "1"], ["mn", "2"]],
                    ["mo", "+"],
                    ["msqrt", ["mi", "y"]],
                ],
                ["mo:fence", ")"],
            ],
        ],
    ]
    assert latex.mathml("x^10") == ["math", ["mrow", ["msup", ["mi", "x"], ["mn", "1"]], ["mn", "0"]]]


@pytest.mark.parametrize("text", ["", "a_{", "a}", "|a", r"\foo x", "x^2^3", r"\frac a", r"\left( a", "a & b", "(a]"])
def test_what_cannot_be_read_stays_text(text):
    assert latex.mathml(text) is None


# --- in the file ----------------------------------------------------------------------------------------------------


def test_pages_carry_certificates(tmp_path):
    explainer().to_html(tmp_path / "a.html", image(), 1)
    data = read(tmp_path / "a.html").data
    claims = rules_of(data)["selective"]["certificate"]["claims"]
    assert claims[0][0].startswith("conserves, in exact division")
    for _, layer, number, left in claims:
        assert layer
        assert left == ""
        assert data["equations"][number]["math"][0] == "math"


def own_method():
    """LRP-ε with a rule of its own at the head."""
    entry = REGISTRY["lrp-epsilon"]
    method = entry.make(entry.options())
    own = RuleTable.of([(op(aten.linear.default), Rule(mine_at_linear, "mine", promise=Promise.UNKNOWN))])
    streams = tuple(replace(stream, rules=own + stream.rules) for stream in method.streams)
    return replace(method, name="of-my-own", streams=streams)


def mine_at_linear(site, phi):
    return (site.x * torch.matmul(phi, site.weight), None, None)[: len(site.operands)]


def test_a_rule_of_a_table_of_ones_own_has_none_and_the_others_theirs(tmp_path):
    made = agf_fx.compile(Net("other").eval(), torch.zeros(1, 3, 16, 16), method=own_method())
    made.to_html(tmp_path / "a.html")
    found = rules_of(read(tmp_path / "a.html").data)
    assert found["mine"]["certificate"]["claims"] == []
    assert found["epsilon(ε=1e-06)"]["certificate"]["claims"]
