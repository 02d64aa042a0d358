"""tools/gpu takes the same path on a CPU with small networks, and says what it did not measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, ROOT / "tools" / "gpu.py", "--device", "cpu", "--quick", "--out", out]
    command += ["--networks", "squeezenet1_1", "--only", "machine", "maps", "cudagraphs", "exports"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + (out / "gpu.md").read_text()
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


def test_every_step_has_run(report):
    record, page = report
    assert {name: step["outcome"] for name, step in record["steps"].items()} == dict.fromkeys(record["steps"], "done")
    assert record["installation"] == "installed with --no-deps --no-build-isolation"
    maps = record["steps"]["maps"]["rows"]
    assert {row["way"] for row in maps} == {"eager, TF32 off", "eager, TF32 on"}
    assert all(row["largest"] < 1e-2 for row in maps)
    assert all(row["difference"] < 1e-4 for row in record["steps"]["exports"]["rows"])
    assert "| network | format | write_s |" in page


def test_what_was_not_measured_says_so(report):
    _, page = report
    assert "not measured: --quick compiles nothing" in page
    assert "## throughput: images a second at the best batch size\n\nnot measured" in page


def test_a_step_that_fails_or_takes_too_long_does_not_stop_the_rest(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "gpu.py"), "--device", "nowhere", "--quick", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--only", "machine"], capture_output=True, text=True, check=False)
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 1
    assert [step["outcome"] for step in record["steps"].values()] == ["failed"]
    assert record["steps"]["machine"]["last_lines"]
    done = subprocess.run([*command, "--minutes", "0.01"], capture_output=True, text=True, check=False)
    assert "the time is used up" in (tmp_path / "gpu.md").read_text()
