"""docs/evaluation.md: what was found, as tables, below what is said of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from evaluation_report.curves import picture
from evaluation_report.studies import GROUPS, ROOT, STUDIES, Study

from agf_fx.evaluate.evaluation import KEYS
from agf_fx.evaluate.experiments import EXPERIMENTS

IMAGES = ROOT / "docs" / "images"
MARK = "<!-- What follows is written by tools/evaluation.py -->"
_WAYS = {True: "more is better", False: "less is better", None: "neither way is better"}


def page(text: str, kept: Path) -> str:
    """The page, with its words up to `MARK` as they are, and the tables of all studies that are kept behind it."""
    words = text.partition(MARK)[0].rstrip()
    tables = [
        section(study, pd.read_csv(kept / f"{name}.csv"))
        for name, study in STUDIES.items()
        if (kept / f"{name}.csv").exists()
    ]
    return "\n\n".join([words, MARK, *tables]) + "\n"


def section(study: Study, means: pd.DataFrame) -> str:
    """A study: what was run, and a row for each method, best first."""
    experiment = EXPERIMENTS[study.experiment]
    measures = [name for name in experiment.measures if name not in experiment.curve]
    keys = [key for key in KEYS if key in means and key not in ("method", "layer", "step")]
    lines = [f"## {study.title}", "", f"{experiment.title[0].upper()}{experiment.title[1:]} ({experiment.citation})."]
    ways = "; ".join(f"{name.replace('_', ' ')}: {_WAYS[experiment.measures[name]]}" for name in measures)
    lines += [f"{ways[0].upper()}{ways[1:]}.", ""]
    lines += ["<details><summary>Commands</summary>", "", "```console"]
    there = [group for group in study.groups if {*GROUPS[group]} & {*means["method"]}]
    lines += [f"$ {command}" for command in study.commands(there)] + ["```", "", "</details>", ""]
    named = means.assign(measure=means["measure"].where(means["measure"].isin(measures))).dropna(subset=["measure"])
    whole = _whole(named, keys)
    columns = [(*values, measure) for values in _values(named, keys) for measure in measures]
    titles = [" ".join(map(str, column)).replace("_", " ") for column in columns]
    figure = picture(study)
    if figure is not None and (IMAGES / figure).exists():
        lines += [f"![{study.title}: curves of the methods of the paper](images/{figure})", ""]
    lines += ["| method | " + " | ".join(titles) + " | images |", "| --- |" + " --- |" * (len(columns) + 1)]
    order = next(column for column in columns if column[-1] == study.order)
    better = experiment.measures[study.order]
    methods = sorted(whole, key=lambda method: whole[method][order][0], reverse=better is True)
    for method in methods:
        cells = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high, _ in map(whole[method].get, columns)]
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {max(cell[3] for cell in whole[method].values())} |")
    return "\n".join(lines)


def _values(means: pd.DataFrame, keys: list[str]) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(tuple(row) for row in means[keys].itertuples(index=False))) if keys else [()]


def _whole(means: pd.DataFrame, keys: list[str]) -> dict[str, dict[tuple[str, ...], tuple[float, float, float, int]]]:
    """By method and column: mean, low, high and images; those of all layers, where there are some, as their mean."""
    found: dict[str, dict[tuple[str, ...], tuple[float, float, float, int]]] = {}
    for values, rows in means.groupby(["method", *keys, "measure"], sort=False, dropna=False):
        method, *column = values
        numbers = rows[["mean", "low", "high"]].mean()
        found.setdefault(method, {})[tuple(column)] = (*map(float, numbers), int(rows["images"].max()))
    return found
