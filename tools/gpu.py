"""Everything that a machine with a GPU can tell about agf-fx, in order of importance, within a time limit.

    tools/gpu                          all steps on CUDA, 12 minutes at most
    tools/gpu --minutes 5 --only tests maps
    tools/gpu --device cpu --quick     the same path with small networks on the CPU

Each step is a process of its own with a time limit of its own; what it found is in ``<out>/gpu.json`` and
``<out>/gpu.md`` as soon as it is done, and what fails or runs out of time does not stop the rest. The checkout is
installed offline into ``<out>/environment``, beside the packages of this Python. The exit status is 1 if a step failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from gpu_report.page import page  # noqa: E402
from gpu_report.plan import STEPS, Step  # noqa: E402

LAST_LINES = 25


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen steps; 1 if one failed."""
    arguments = parse(argv)
    if arguments.list:
        print("\n".join(f"{step.name:12} {step.seconds:4} s  {step.title}" for step in STEPS))
        return 0
    chosen = [step for step in STEPS if not arguments.only or step.name in arguments.only]
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * arguments.minutes
    record: dict[str, Any] = {"device": arguments.device, "quick": arguments.quick, "steps": {}}
    python, environment, record["installation"] = install(out)
    for step in chosen:
        write(out, record)
        left = deadline - time.monotonic()
        if left < 5:
            record["steps"][step.name] = {"outcome": "left out", "reason": "the time is used up"}
            continue
        print(f"{step.name}: {step.title} ...", flush=True)
        record["steps"][step.name] = run(step, python, environment, arguments, min(step.seconds, left), out)
        print(f"  {record['steps'][step.name]['outcome']}", flush=True)
    write(out, record)
    print(f"{out / 'gpu.md'}\n{out / 'gpu.json'}")
    return int(any(found["outcome"] == "failed" for found in record["steps"].values()))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    head, _, details = __doc__.partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tools/gpu", description=head, epilog=details, formatter_class=raw)
    add = parser.add_argument
    add("--device", default="cuda")
    add("--quick", action="store_true", help="small networks and images, nothing compiled")
    add("--minutes", type=float, default=12.0, help="for everything (default: 12)")
    add("--only", nargs="+", default=[], choices=[step.name for step in STEPS], metavar="STEP")
    add("--networks", nargs="+", default=[], metavar="NAME", help="networks of torchvision, for the steps' own")
    add("--methods", nargs="+", default=[], metavar="NAME", help="for step methods (default: all)")
    add("--list", action="store_true", help="list the steps and run none")
    add("--out", type=Path, default=ROOT / "out", help="folder of gpu.json and gpu.md (default: out)")
    return parser.parse_args(argv)


def install(out: Path) -> tuple[str, dict[str, str], str]:
    """Install the checkout without a network; where that fails, it is imported from where it lies.

    Returns:
        The Python to run steps with, their environment variables, and what was done, in words.
    """
    folder = out / "environment"
    python = folder / "bin" / "python"
    variables = {**os.environ, "AGF_FX_CACHE_DIR": str(out / "cache"), "PYTHONPATH": ""}
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    commands = [
        [sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)],
        [*pip, "--no-build-isolation", "--disable-pip-version-check", "--editable", str(ROOT)],
    ]
    for number, command in enumerate(commands):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            variables["PYTHONPATH"] = str(ROOT)
            return sys.executable, variables, f"not installed ({reason}); imported from the checkout"
        if number == 0:  # the packages of this Python are found from there
            site = next((folder / "lib").glob("python*/site-packages"))
            paths = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path])
            usable = [path for path in paths if path.endswith(("site-packages", "dist-packages"))]
            (site / "borrowed.pth").write_text("\n".join(usable) + "\n")
    return str(python), variables, "installed with --no-deps --no-build-isolation"


def run(
    step: Step, python: str, environment: dict[str, str], arguments: argparse.Namespace, seconds: float, out: Path
) -> dict[str, Any]:
    """One step in a process of its own."""
    result = out / f"gpu-{step.name}.json"
    result.unlink(missing_ok=True)
    command = [python, "-m", "gpu_report.steps", step.name, "--device", arguments.device, "--result", str(result)]
    command += ["--quick"] if arguments.quick else []
    for name in ("networks", "methods"):
        chosen = getattr(arguments, name)
        command += [f"--{name}", *chosen] if chosen else []
    started = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT / "tools",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        outcome, output = "done" if done.returncode == 0 else "failed", done.stdout
    except subprocess.TimeoutExpired as expired:
        outcome = "out of time"
        output = (expired.stdout or b"").decode(errors="replace") if isinstance(expired.stdout, bytes) else ""
    found: dict[str, Any] = {"outcome": outcome, "seconds": round(time.monotonic() - started, 1)}
    if result.exists():
        found |= json.loads(result.read_text(encoding="utf-8"))
        result.unlink()
    if outcome != "done":
        found["last_lines"] = output.strip().splitlines()[-LAST_LINES:]
    return found


def write(out: Path, record: dict[str, Any]) -> None:
    """Both files, whole or not at all."""
    for name, text in (("gpu.json", json.dumps(record, indent=1)), ("gpu.md", page(record))):
        temporary = out / f".{name}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out / name)


if __name__ == "__main__":
    sys.exit(main())
