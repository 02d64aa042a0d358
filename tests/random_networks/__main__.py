"""Check a range of seeds; print every network that fails.

With ``--pairs`` the networks are spelled twice, as two programs of one function, and must have one map to 1e-9 of its
largest entry in float64, and one conservation ratio: docs/equal-functions.md. A pair that fails is printed with both
programs, and with the steps at which they differ.
"""

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
from random_networks.seeds import outcomes, pair_outcomes
from random_networks.spelling import Worst, pair


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="random_networks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", nargs=2, type=int, metavar=("A", "B"), default=(0, 1000), help="from A to B - 1")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--pairs", action="store_true", help="compare networks that are spelled twice")
    parser.add_argument("--show", action="store_true", help="print the networks instead")
    arguments = parser.parse_args()
    seeds = range(*arguments.seeds)
    if arguments.pairs:
        return _compare_pairs(seeds, arguments.jobs, arguments.show)
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


def _compare_pairs(seeds: range, jobs: int, show: bool) -> int:
    if show:
        for one in map(pair, seeds):
            print(f"--- pair {one.seed}, first ---\n{one.first}\n--- pair {one.seed}, second ---\n{one.second}")
        return 0
    failed, worst = [], Worst()
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True)) as progress:
        task = progress.add_task("pairs", total=len(seeds))
        for count, found, errors in pair_outcomes(seeds, jobs):
            for error in errors.values():
                print(f"--- {error}", flush=True)
            failed += errors
            worst |= found
            progress.advance(task, count)
    print(f"{len(seeds)} pairs, {len(failed)} failed: {failed}")
    print(f"worst: maps {worst.maps:.1e} of their largest entry, conservation ratios {worst.ratios:.1e} apart")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
