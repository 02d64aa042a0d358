"""docs/certificates.md says what the code says."""

from __future__ import annotations

import sys
from pathlib import Path

from agf_fx.inspect import certificates as package
from agf_fx.inspect.certificates.layers import LINEAR
from agf_fx.rules.propagation import flat
from agf_fx.rules.rule import Rule

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import certificates


def test_the_page_is_up_to_date():
    assert certificates.page() == certificates.PAGE.read_text(encoding="utf-8"), "run python tools/certificates.py"


def test_every_rule_is_on_the_page_with_its_claims():
    text = certificates.PAGE.read_text(encoding="utf-8")
    assert "no certificate" not in text.partition("## ")[2]
    for method, subject in package.subjects():
        if method != "registered":
            assert f"`{certificates.name(subject)}`" in text
            for claim in package.of(subject).claims:
                assert claim.says.replace("|", r"\|") in text
                assert certificates.formula(claim.latex) in text


def test_a_page_that_is_out_of_date_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(certificates, "PAGE", tmp_path / "certificates.md")
    monkeypatch.setattr(sys, "argv", ["certificates.py", "--check"])
    assert certificates.main() == 1
    monkeypatch.setattr(sys, "argv", ["certificates.py"])
    assert certificates.main() == 0
    monkeypatch.setattr(sys, "argv", ["certificates.py", "--check"])
    assert certificates.main() == 0
    assert capsys.readouterr().out.split()[-3:] == ["up", "to", "date"]


def test_the_tool_prints_proofs(monkeypatch, capsys):
    other = Rule(lambda site, phi: (phi,), "other")
    monkeypatch.setattr(package, "subjects", lambda: iter([("agf", flat), ("mine", other)]))
    monkeypatch.setattr(sys, "argv", ["certificates.py", "--prove"])
    assert certificates.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"0  flat: conserves, on: {LINEAR}"
    assert lines[-1] == "other of mine: no certificate"
