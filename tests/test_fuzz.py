"""A few of the trials that tools/fuzz makes by the thousand."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import fuzz
from fuzzing import subjects, trials
from fuzzing.changes import EVIL, forged, spoiled

from agf_fx.errors import InputError

COUNTS = {
    "cache": 20,
    "signed-cache": 60,
    "torchscript": 10,
    "onnx": 20,
    "onnx-metadata": 20,
    "pictures": 60,
    "checkpoints": 40,
}


@pytest.mark.parametrize("kind", COUNTS)
def test_nothing_spoiled_is_a_fault(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subject = subjects.KINDS[kind](tmp_path)
    outcomes = set()
    for seed in range(COUNTS[kind]):
        subject.spoil(Random(f"{kind} {seed}"))
        outcome, detail = trials._outcome(subject)
        assert outcome not in trials.FAULTS, f"{kind} --seed {seed}: {detail}"
        outcomes.add(outcome)
    assert outcomes & {subjects.REFUSED, subjects.RECOMPILED}
    assert not (tmp_path / "broken-in").exists()


def raising(error):
    def attempt():
        raise error

    return attempt


@pytest.mark.parametrize(
    ("attempt", "outcome"),
    [
        (lambda: subjects.OTHER, "WRONG"),
        (raising(KeyError("x")), "CRASH"),
        (raising(RecursionError()), "CRASH"),
        (raising(MemoryError()), "MEMORY"),
        (raising(InputError("typed")), "refused"),
        (lambda: subjects.SAME, "same"),
    ],
)
def test_outcomes_are_told_apart(attempt, outcome):
    assert trials._outcome(SimpleNamespace(attempt=attempt, another=False))[0] == outcome


def test_code_that_runs_is_seen():
    events = trials._watched()
    os.system("true")
    assert "os.system" in events[0]


def test_changes_are_made_by_their_seed():
    content, data = bytes(range(200)), {"a": [1, "relu.default", {"node": 3}], "b": "x"}
    assert len({spoiled(content, Random(seed)) for seed in range(50)}) > 30
    assert spoiled(content, Random(1)) == spoiled(content, Random(1))
    assert len({str(forged(data, Random(seed))) for seed in range(50)}) > 20
    assert any(EVIL in str(forged(data, Random(seed))) for seed in range(200))


def test_a_table_is_printed(capsys):
    assert fuzz.main(["--trials", "2", "--kinds", "checkpoints"]) == 0
    assert "checkpoints: 2 trials, 0 faults" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        fuzz.main(["--kinds", "x"])
