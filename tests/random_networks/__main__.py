"""Check a range of seeds; print every network that fails."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).parents[1]))

from agf_fx.ir.text import op_name
from agf_fx.ir.vocabulary import VOCABULARY
from random_networks.script import network_source
from random_networks.seeds import outcomes


def main() -> int:
    parser = argparse.ArgumentParser(prog="random_networks", description=__doc__)
    parser.add_argument("--seeds", nargs=2, type=int, metavar=("A", "B"), default=(0, 1000), help="from A to B - 1")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--show", action="store_true", help="print the networks instead")
    arguments = parser.parse_args()
    seeds = range(*arguments.seeds)
    if arguments.show:
        print(*map(network_source, seeds), sep="\n\n")
        return 0
    failed, missing = [], {op_name(op) for op in VOCABULARY}
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True)) as progress:
        task = progress.add_task("networks", total=len(seeds))
        for outcome in outcomes(seeds, arguments.jobs):
            for seed, error in outcome.errors.items():
                print(f"--- seed {seed} ---\n{error}", flush=True)
            failed += outcome.errors
            missing -= outcome.drawn
            progress.advance(task, outcome.count)
    print(f"{len(seeds)} networks, {len(failed)} failed: {failed}")
    print(f"operations that none of them has: {', '.join(sorted(missing)) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
