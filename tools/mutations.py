"""Would the tests notice? Plausible errors, put into a copy of the code one at a time.

python tools/mutations.py [--count 12] [--seed 0] [--only TEXT] [--list] [--jobs 2]

``tools/mutations.toml`` lists the errors: file, the text there, the text in its place, and the tests expected to fail.
Each runs on a copy of the checkout, so nothing here is touched. Prints a row an error; the exit status is 1 if one of
them went unnoticed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tools" / "mutations.toml"
COPIED = ("agf_fx", "passes", "tests", "tools", "examples", "docs", "pyproject.toml", "README.md")
PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
LIMIT = 300  # seconds that the tests of one error may take
FAILED = 1  # pytest's exit status where tests ran and one failed


@dataclass(frozen=True)
class Mutation:
    """One error.

    Attributes:
        file: path in the checkout.
        find: a text that occurs there once.
        replace: what stands there instead.
        tests: pytest arguments, which select the tests expected to fail.
    """

    file: str
    find: str
    replace: str
    tests: tuple[str, ...]

    @property
    def title(self) -> str:
        """The change on one line."""
        return f"{self.file}: {' '.join(self.find.split())} → {' '.join(self.replace.split()) or '(nothing)'}"

    def occurrences(self, root: Path = ROOT) -> int:
        """How often the text occurs; an error whose text does not occur once is out of date."""
        return (root / self.file).read_text(encoding="utf-8").count(self.find)


def read_mutations(path: Path = LIST) -> list[Mutation]:
    """The listed errors, in order."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]
    return [Mutation(e["file"], e["find"], e["replace"], tuple(e["tests"])) for e in entries]


def outcome(mutation: Mutation) -> str:
    """``noticed``, or how the error went unnoticed."""
    if mutation.occurrences() != 1:
        return f"out of date: the text occurs {mutation.occurrences()} times"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy / name)
        path = copy / mutation.file
        path.write_text(path.read_text(encoding="utf-8").replace(mutation.find, mutation.replace), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(copy), "AGF_FX_CACHE_DIR": str(copy / "cache")}
        command = [sys.executable, *PYTEST, *mutation.tests]
        try:
            done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return f"not noticed within {LIMIT} s"
    if done.returncode == FAILED:
        return "noticed"
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return f"NOT NOTICED ({last})"


def main() -> int:
    """Run the chosen errors; 1 if one went unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="this many, drawn by the seed; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="those whose file or texts contain this")
    parser.add_argument("--list", action="store_true", help="print them and run nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    arguments = parser.parse_args()
    chosen = [mutation for mutation in read_mutations() if arguments.only in mutation.title]
    if arguments.count is not None:
        chosen = random.Random(arguments.seed).sample(chosen, min(arguments.count, len(chosen)))
    if arguments.list:
        print("\n".join(mutation.title for mutation in chosen))
        return 0
    start = time.perf_counter()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        unnoticed = 0
        for mutation, found in zip(chosen, pool.map(outcome, chosen), strict=True):
            unnoticed += found != "noticed"
            print(f"{found:12} {mutation.title}", flush=True)
    print(f"{len(chosen) - unnoticed} of {len(chosen)} noticed, {time.perf_counter() - start:.0f} s")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main())
