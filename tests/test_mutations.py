"""The list of errors that the tests must notice is up to date, and the tool tells noticed from unnoticed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import mutations


@pytest.mark.parametrize("mutation", mutations.read_mutations(), ids=lambda mutation: mutation.title[:80])
def test_every_error_still_has_its_place(mutation):
    assert mutation.occurrences() == 1
    assert mutation.find != mutation.replace
    assert all((mutations.ROOT / name).exists() for name in mutation.tests if name.startswith("tests/"))


def test_an_error_is_noticed_by_the_test_that_knows_it_and_not_by_another():
    change = ("agf_fx/rules/numerics.py", "EPSILON = 1e-9", "EPSILON = 1e-3")
    noticed = mutations.Mutation(*change, ("tests/test_rules.py", "-k", "test_div"))
    unnoticed = mutations.Mutation(*change, ("tests/test_rules.py", "-k", "equal_logits_is_zero"))
    stale = mutations.Mutation(change[0], "no such text", "", ("tests/test_rules.py",))
    assert mutations.outcome(noticed) == "noticed"
    assert mutations.outcome(unnoticed).startswith("NOT NOTICED")
    assert mutations.outcome(stale).startswith("out of date")
