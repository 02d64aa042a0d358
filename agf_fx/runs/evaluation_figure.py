"""The figure of ``agf-fx evaluate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agf_fx.atomic import atomic_path
from agf_fx.evaluate.evaluation import KEYS
from agf_fx.evaluate.experiments import Experiment

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(path: str | os.PathLike[str], means: pd.DataFrame, experiment: Experiment) -> None:
    """Curves over the share of hidden pixels; curves over other steps, such as contrasts; or bars with intervals.

    A panel for each measure, or for each class that is explained; as in the paper's Fig. 3 (Gur, Ali and Wolf, AAAI
    2021).

    Args:
        path: of a PNG file.
        means: from `agf_fx.evaluate.evaluation.summary`, a row for each method and measure.
        experiment: whose measures these are.
    """
    from matplotlib.figure import Figure

    keys = [key for key in KEYS if key in means and key != "method"]
    groups = list(means.groupby(keys, sort=False, dropna=False)) if keys else [((), means)]
    curve = list(experiment.curve)
    if curve:
        drawn = Figure(figsize=(5 * len(groups), 4), layout="constrained")
        for axes, (which, group) in zip(drawn.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
            _tell_apart(axes)
            for method, rows in group.groupby("method", sort=False):
                values = rows.set_index("measure")["mean"]
                axes.plot(
                    [100 * experiment.curve[step] for step in curve], [values[step] for step in curve], label=method
                )
            axes.set(xlabel="pixels that are hidden, %", ylabel="accuracy", title=" ".join(map(str, which)))
        _legend(drawn, axes)
    elif "step" in means:
        measures, parts = list(experiment.measures), ["which"] if "which" in means else []
        lines = list(means.groupby([*parts, "measure"], sort=False))
        columns = len(lines) // len(measures)
        drawn = Figure(figsize=(4 * len(measures), 3 * columns + 1), layout="constrained")
        panels = drawn.subplots(columns, len(measures), squeeze=False)
        for axes, ((*which, measure), rows) in zip(panels.flat, lines, strict=True):
            _tell_apart(axes)
            for method, line in rows.groupby("method", sort=False):
                axes.plot(line["step"], line["mean"], marker=".", label=method)
            axes.set(title=" ".join([*map(str, which), measure.replace("_", " ")]), xlabel="step")
        _legend(drawn, panels[0, 0])
    else:
        measures = list(experiment.measures)
        drawn = Figure(figsize=(4 * len(measures), 0.4 * len(means["method"].unique()) + 1.5), layout="constrained")
        for axes, measure in zip(drawn.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
            rows = means[means["measure"] == measure].groupby("method", sort=False)[["mean", "low", "high"]].mean()
            spread = [(rows["mean"] - rows["low"]).clip(lower=0), (rows["high"] - rows["mean"]).clip(lower=0)]
            axes.barh(list(rows.index)[::-1], rows["mean"][::-1], xerr=[part[::-1] for part in spread], capsize=2)
            axes.set_title(measure.replace("_", " "))
    with atomic_path(Path(path), ".png") as file:
        drawn.savefig(file, dpi=120)


def _tell_apart(axes: Axes) -> None:
    """Forty kinds of line: ten colours, then the same dashed, dotted and both."""
    from cycler import cycler
    from matplotlib import color_sequences

    axes.set_prop_cycle(cycler(linestyle=["-", "--", ":", "-."]) * cycler(color=color_sequences["tab10"]))


def _legend(drawn: Figure, axes: Axes) -> None:
    """What the lines of all panels stand for, below them."""
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
