"""Write docs/certificates.md: what is proved of every rule, and on which small layer.

    python tools/certificates.py            the page
    python tools/certificates.py --check    writes nothing; the exit status is 1 if the page is out of date
    python tools/certificates.py --prove    prints every claim with what is left of it, 0 where it is proved

Rules, promises and claims come from the code; tests/test_certificates.py proves them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agf_fx.atomic import atomic_write
from agf_fx.inspect import certificates
from agf_fx.rules.merging import Merge
from agf_fx.rules.rule import Rule

PAGE = Path(__file__).resolve().parents[1] / "docs" / "certificates.md"

ROOMS = {
    "agf_fx.rules.agf": "Attribution Guided Factorization",
    "agf_fx.rules.propagation": "Rules that methods share",
    "agf_fx.rules.lrp": "Layer-wise relevance propagation",
    "agf_fx.rules.norms": "AttnLRP",
    "agf_fx.rules.rap": "Relative attributing propagation",
    "agf_fx.rules.gradients": "Gradients",
    "agf_fx.rules.patterns": "Patterns",
    "agf_fx.rules.deeplift": "DeepLIFT",
    "agf_fx.rules.merging": "Several readers of one value",
    "agf_fx.methods": "Starts and read-outs of methods",
    "agf_fx.rules.contributions": "Extract and aggregate",
}
"""Titles, by the room of the code: the longest that fits."""

INTRODUCTION = """\
A certificate says what is claimed of a rule, and on which small layer it is proved: the rule's own code, the same that
explains networks, runs there on symbols in the place of numbers, and what is left of the claim is 0. Divisions are
exact, or have the stabiliser ε for a symbol. What a rule asks of values, their signs and which is larger, is answered
at a point, so that a proof holds around it, for all values with the same answers; a few points cover the cases that a
rule tells apart. A case that no point stands for is not proved: parity with published code and tests on random networks
look there. Claims of a sum hold unless all denominators of a sample are 0: then nothing is handed on.

`agf_fx.inspect.certificates.of(rule)` has the claims of a rule as data, `.proofs()` proves them, and `.computed()` is
what the code computes on the layer, as LaTeX. `python tools/certificates.py --prove` proves all. A rule without a
certificate, and a broken one, fail the tests; for one of your own, see [extending](extending.md#a-rule). Pages of
explanation graphs prove the certificates of their rules as they are written ([inspect](inspect.md#in-the-browser))."""


def main() -> int:
    """Write or check the page, or prove all claims; 1 if the page is out of date or a claim fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true")
    what.add_argument("--prove", action="store_true")
    arguments = parser.parse_args()
    if arguments.prove:
        return prove()
    text = page()
    if arguments.check:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        print(f"{PAGE} is {'up to date' if current else 'out of date'}")
        return int(not current)
    with atomic_write(PAGE) as file:
        file.write(text.encode())
    return 0


def prove() -> int:
    """Print all proofs."""
    failed = 0
    for method, subject in certificates.subjects():
        certificate = certificates.of(subject)
        if certificate is None:
            print(f"{name(subject)} of {method}: no certificate")
            failed += 1
            continue
        for claim, residual in certificate.proofs():
            print(f"{residual}  {name(subject)}: {claim.says}, on: {claim.layer}")
            failed += residual != 0
    return int(failed > 0)


def page() -> str:
    """The page."""
    rooms: dict[str, dict[tuple[str, ...], None]] = {title: {} for title in ROOMS.values()}
    for method, subject in certificates.subjects():
        if method != "registered":
            rooms[title_of(subject)][tuple(row(subject))] = None  # each row once
    parts = ["# Certificates", INTRODUCTION]
    header = ("rule", "equation", "the sum", "proved", "on", "source")
    for title, rows in rooms.items():
        parts += [f"## {title}", "\n".join(table(header, list(rows)))]
    parts.append("---\n\nWritten by `tools/certificates.py`.")
    return "\n\n".join(parts) + "\n"


def title_of(subject: Any) -> str:
    """The heading under which a rule stands."""
    module = function_of(subject).__module__
    return ROOMS[max((room for room in ROOMS if module.startswith(room)), key=len)]


def function_of(subject: Any) -> Any:
    """What computes it."""
    return subject.function if isinstance(subject, Rule | Merge) else subject


def name(subject: Any) -> str:
    """What a rule, a merge or a function is called."""
    return str(subject) if isinstance(subject, Rule) else getattr(subject, "name", "") or subject.__name__


def row(subject: Any) -> Iterator[str]:
    """The cells of a rule."""
    certificate = certificates.of(subject)
    claims = () if certificate is None else certificate.claims
    yield f"`{name(subject)}`"
    yield f"`{subject.equation}`" if getattr(subject, "equation", "") else ""
    yield getattr(subject, "promise", "")
    yield numbered([f"{claim.says}: {formula(claim.latex)}" for claim in claims]) if claims else "**no certificate**"
    yield numbered([claim.layer for claim in claims])
    yield getattr(subject, "source", "")


def formula(latex: str) -> str:
    """LaTeX that stands in a cell of a table."""
    return "$`" + latex.replace("|", r"\vert ") + "`$"


def numbered(lines: list[str]) -> str:
    """Lines with their numbers, in one cell; a line alone where all are the same."""
    if len(set(lines)) <= 1:
        return "".join(lines[:1])
    return "<br>".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    for line in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"


if __name__ == "__main__":
    sys.exit(main())
