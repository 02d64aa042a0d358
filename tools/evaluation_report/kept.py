"""What is kept of studies: the means of all methods, whenever each of them was measured."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from evaluation_report.studies import GROUPS, Study


def joined(found: Path, kept: Path, study: Study) -> pd.DataFrame:
    """What was found, and what is kept of methods that it has not, in the order of the study's methods."""
    means = pd.read_csv(found)
    if kept.exists():
        before = pd.read_csv(kept)
        means = pd.concat([before[~before["method"].isin(means["method"])], means])
    order = [label for group in study.groups for label in GROUPS[group]]
    return means.sort_values("method", key=lambda names: names.map(order.index), kind="stable")
