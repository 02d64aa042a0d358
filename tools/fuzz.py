"""Flip, truncate and forge what agf-fx reads, and say what became of it.

Cache entries, exported files, pictures and checkpoints are spoiled by the thousand, each by its seed. What is wanted:
the same result, a typed error, or a warning and recompilation. Faults are another result in silence (WRONG), untyped
errors and dead processes (CRASH), more than 20 seconds (HANG), more than 3 GB (MEMORY), and code that runs (CODE). An
entry that is forged and signed with the user's own key may hold another graph ("other"), as the user may.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

from fuzzing.trials import FAULTS, Trial, trials

KINDS = ("cache", "signed-cache", "torchscript", "export", "onnx", "onnx-metadata", "pictures", "checkpoints")
OUTCOMES = ("same", "refused", "recompiled", "other", *FAULTS)


def main(arguments: list[str] | None = None) -> int:
    """Run the trials asked for; 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"some of {', '.join(KINDS)}")
    options = parser.parse_args(arguments)
    kinds = options.kinds.split(",")
    unknown = set(kinds) - set(KINDS)
    if unknown:
        parser.error(f"there is no kind {', '.join(sorted(unknown))}")
    console, faults = Console(), []
    table = Table("kind", *OUTCOMES)
    for kind in kinds:
        found = list(trials(kind, range(options.seed, options.seed + options.trials)))
        counts = Counter(trial.outcome for trial in found)
        table.add_row(kind, *(str(counts.pop(outcome, 0)) for outcome in OUTCOMES))
        faults += [trial for trial in found if trial.outcome in FAULTS]
        console.print(f"{kind}: {len(found)} trials, {sum(trial.outcome in FAULTS for trial in found)} faults")
    console.print(table)
    for trial in faults[:20]:
        console.print(_shown(trial), markup=False)
    return 1 if faults else 0


def _shown(trial: Trial) -> str:
    return f"{trial.outcome} {trial.kind} --seed {trial.seed} --trials 1\n{trial.detail}"


if __name__ == "__main__":
    sys.exit(main())
