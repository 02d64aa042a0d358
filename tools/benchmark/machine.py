"""What a benchmark was measured on."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torchvision

import agf_fx

_ROOT = Path(__file__).parent.parent.parent


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, software, and the settings of PyTorch that decide how fast it is."""
    facts: dict[str, Any] = {
        "processor": processor(),
        "cores": torch.multiprocessing.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "agf_fx": agf_fx.__version__,
        "commit": commit(),
        "command": shlex.join(["tools/bench", *sys.argv[1:]]),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "inductor_caches": not torch._inductor.config.force_disable_caches,
    }
    if device.type == "cuda":
        facts["device_name"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()
        facts["cudnn_allow_tf32"] = torch.backends.cudnn.allow_tf32
        facts["cudnn_benchmark"] = torch.backends.cudnn.benchmark
    return facts


def processor() -> str:
    """The processor's model name where Linux tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def first_capture_s() -> float:
    """Seconds of the first capture in this process, of a network with nothing to it: imports, mostly."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.Flatten(), torch.nn.Linear(2 * 64, 2)).eval()
    started = time.perf_counter()
    agf_fx.compile(model, torch.zeros(1, 3, 8, 8))(torch.rand(1, 3, 8, 8))
    return time.perf_counter() - started


def commit() -> str | None:
    """The git commit of the checkout, ``+`` behind it where files differ from it; None where git does not say."""
    try:
        head, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
