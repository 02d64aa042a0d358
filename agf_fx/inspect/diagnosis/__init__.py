"""Why a map is blank, noisy, the same for all classes, a grid, or different in float64: questions asked of each map."""

from __future__ import annotations

from collections.abc import Callable

from agf_fx.inspect.diagnosis.appearance import border, grid, noise, peak, sign
from agf_fx.inspect.diagnosis.blank import blank
from agf_fx.inspect.diagnosis.case import Case
from agf_fx.inspect.diagnosis.classes import differences
from agf_fx.inspect.diagnosis.report import Check, Diagnosis, Finding, MapDiagnosis
from agf_fx.inspect.diagnosis.values import conserved, finite, growth, precision

CHECKS: dict[str, Callable[[Case], Check]] = {
    "blank": blank,
    "noisy": noise,
    "class-independent": differences,
    "grid": grid,
    "precision": precision,
    "one-pixel": peak,
    "border": border,
    "negative": sign,
    "exploding": growth,
    "not-conserved": conserved,
}
"""Questions that are asked of a finite map, by their kind."""

KINDS = ("not-finite", *CHECKS)
"""Kinds of findings."""


def checked(case: Case) -> tuple[Check, ...]:
    """All questions asked of one map; of one that is not finite, that alone."""
    first = finite(case)
    if first.finding is not None:
        said = "the map, or a logit, is not finite"
        return (first, *(Check(kind, left_out=said) for kind in CHECKS))
    return (first, *(check(case) for check in CHECKS.values()))


__all__ = ["CHECKS", "KINDS", "Case", "Check", "Diagnosis", "Finding", "MapDiagnosis", "checked"]
