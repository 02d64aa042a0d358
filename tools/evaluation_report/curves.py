"""Curves of the first paper's Fig. 3, of what is kept of studies that hide pixels step by step."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from evaluation_report.studies import STUDIES, Study

from agf_fx.evaluate.experiments import EXPERIMENTS
from agf_fx.runs.evaluation_figure import draw

METHODS = (
    *("agf", "gradcam", "rap", "fullgrad", "clrp", "sglrp", "lrp-alphabeta", "lrp-epsilon"),
    *("integrated-gradients", "smoothgrad"),
)
"""Those of the paper's figure that have been measured are drawn."""


def picture(study: Study) -> str | None:
    """The name of a study's figure; None where it has no curves."""
    return f"{study.name}.png" if EXPERIMENTS[study.experiment].curve else None


def draw_curves(kept: Path, folder: Path) -> None:
    """Write the figures of all studies that are kept.

    Args:
        kept: the folder of the studies' tables.
        folder: of the figures.
    """
    for study in STUDIES.values():
        name, table = picture(study), kept / f"{study.name}.csv"
        if name is not None and table.exists():
            means = pd.read_csv(table)
            order = {method: place for place, method in enumerate(METHODS)}
            shown = means[means["method"].isin(METHODS)].sort_values("method", key=lambda column: column.map(order))
            draw(folder / name, shown, EXPERIMENTS[study.experiment])
