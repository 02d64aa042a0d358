"""Measure all methods on photographs and scenes of digits by ``agf-fx evaluate``, and write docs/evaluation.md.

    python tools/evaluation.py                                   everything that docs/evaluation does not have: hours
    python tools/evaluation.py --studies grid-lite0 scenes-separation-resnet
    python tools/evaluation.py --list                            the studies, with their commands
    python tools/evaluation.py --page                            the figures and the page alone, from docs/evaluation
    python tools/evaluation.py --pictures                        the pictures of the saliency bias alone

A study is a few commands for one folder: the same experiment for methods that cost little and on fewer images for those
that cost much. Their summary, means with intervals, is kept in docs/evaluation; what was done in out/evaluation is not
done again.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from evaluation_report.curves import draw_curves
from evaluation_report.kept import joined
from evaluation_report.page import IMAGES, page
from evaluation_report.pictures import draw
from evaluation_report.studies import STUDIES, Study

import agf_fx
from agf_fx.data.datasets import batches, open_dataset

ROOT = Path(__file__).resolve().parents[1]
OUT, KEPT, PAGE = ROOT / "out" / "evaluation", ROOT / "docs" / "evaluation", ROOT / "docs" / "evaluation.md"


def main() -> int:
    """Run the chosen studies, and write the page after each; the exit status is 1 where a command fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", nargs="+", default=[*STUDIES], choices=[*STUDIES], metavar="NAME")
    parser.add_argument("--groups", nargs="+", metavar="NAME", help="of methods: these commands of a study alone")
    parser.add_argument("--again", action="store_true", help="also those that docs/evaluation has")
    parser.add_argument("--list", action="store_true", help="say the commands, and run none")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--pictures", action="store_true", help="draw the pictures alone")
    arguments = parser.parse_args()
    if arguments.pictures:
        draw(IMAGES)
        return 0
    failed = False
    for name in [] if arguments.page else arguments.studies:
        study = STUDIES[name]
        if arguments.list:
            print(*study.commands(), sep="\n")
            continue
        if (KEPT / f"{name}.csv").exists() and not arguments.again:
            continue
        failed |= not run(study, arguments.groups)
        write()
    if arguments.page:
        write()
    return int(failed)


def run(study: Study, groups: list[str] | None) -> bool:
    """Whether all commands of a study succeed; what they found is kept in any case."""
    if study.needs_patterns and not study.patterns.exists():
        fit(study)
    sound = True
    for command in study.commands(groups):
        print(f"$ {command}", file=sys.stderr, flush=True)
        words = [sys.executable, "-m", *shlex.split(command.replace("agf-fx", "agf_fx", 1))]
        sound &= subprocess.run(words, cwd=ROOT, check=False).returncode == 0
    KEPT.mkdir(exist_ok=True)
    found, kept = OUT / study.name / "summary.csv", KEPT / f"{study.name}.csv"
    if found.exists():
        joined(found, kept, study).to_csv(kept, index=False)
    return sound


def fit(study: Study) -> None:
    """Patterns of a network, fitted on the pictures of its study, or on scenes to train on."""
    loaded = agf_fx.load_model(study.model)
    kind, _, path = study.dataset.partition(":")
    data = open_dataset("digits", "500", split="train") if kind == "digits" else open_dataset(kind, path)
    with torch.no_grad():
        patterns = agf_fx.fit_patterns(
            loaded.model, [batch.images for batch in batches(data, loaded.preprocessing, size=25)]
        )
    study.patterns.parent.mkdir(parents=True, exist_ok=True)
    patterns.save(study.patterns)


def write() -> None:
    """The figures and the page, from what is kept."""
    draw_curves(KEPT, IMAGES)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8") if PAGE.exists() else "", KEPT), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
