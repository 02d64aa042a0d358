"""How long a new process takes until a network is ready to be explained: nothing cached, and from the cache on disk."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmark.subjects import Settings

# Runs in the new process: every stage by itself, so that what the network itself takes is not counted.
_CHILD = """
import json, sys, time
stages, before = {}, time.perf_counter()
def stage(name):
    global before
    now = time.perf_counter()
    stages[name], before = now - before, time.perf_counter()
import torch
stage("import_torch_s")
import torchvision
stage("import_torchvision_s")
model, size = torchvision.models.get_model(sys.argv[1], weights=None).eval(), int(sys.argv[2])
images = torch.randn(1, 3, size, size)
stage("network_s")
import agf_fx
agf_fx.compile
stage("import_agf_fx_s")
explainer = agf_fx.compile(model, images)
stage("compile_s")
explainer(images)
stage("first_map_s")
explainer(images)
stage("second_map_s")
print(json.dumps(stages | {"counters": vars(explainer.counters)}))
"""


def starting_row(name: str, settings: Settings) -> dict[str, Any]:
    """Medians over new processes of a network: cold, with an empty cache each, and warm."""
    cold, warm = [], []
    for _ in range(settings.starts):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(started(name, settings.size, folder))
            warm.append(started(name, settings.size, folder))
    return {"network": name, "cold": _medians(cold), "warm": _medians(warm)}


def started(name: str, size: int, folder: str) -> dict[str, Any]:
    """The seconds of each stage of one process with its cache in ``folder``, and what had to run."""
    environment = os.environ | {"AGF_FX_CACHE": "disk", "AGF_FX_CACHE_DIR": folder, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", _CHILD, name, str(size)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process that explains {name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    times = {stage: statistics.median(run[stage] for run in runs) for stage in runs[0] if stage.endswith("_s")}
    ready = statistics.median(run["import_agf_fx_s"] + run["compile_s"] for run in runs)
    return times | {"ready_s": ready, "counters": runs[0]["counters"]}
