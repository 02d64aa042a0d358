"""The two measurements of a model, as rows of numbers and texts."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import torch
from coverage_report.case import Case, compiled
from coverage_report.checks import check, failures
from coverage_report.conservation import conservation
from coverage_report.networks import build, image_size, random_images

from agf_fx.ir.facts import Facts, facts
from agf_fx.ir.text import op_name
from agf_fx.ir.vocabulary import family_of

Row = dict[str, Any]


def checked(name: str, size: int) -> Row:
    """The checks of a model at an image size close to ``size``, in float64, and what its graph is made of."""
    size = image_size(name, size)
    model = build(name, size, torch.float64)
    case = compiled(model, random_images(2, size, torch.float64, seed=2))
    figures = check(case)
    return {
        "size": size,
        "compile_s": case.compile_s,
        "nodes": len(case.optimised),
        "ops": op_counts(case),
        "roles": role_counts(case),
        "checks": plain(figures),
        "failures": failures(figures),
        "conservation": plain(conservation(case)),
    }


def op_counts(case: Case) -> dict[str, dict[str, int]]:
    """How often each operation is called on the images' signal, by family."""
    counts: dict[str, Counter[str]] = {}
    for node in case.canonical.calls:
        if node.meta["depends_on_images"]:
            counts.setdefault(str(family_of(node)), Counter())[op_name(node.target)] += 1
    return {family: dict(ops) for family, ops in counts.items()}


def role_counts(case: Case) -> dict[str, int]:
    """How many calls have each of the facts."""
    names = [field.name for field in dataclasses.fields(Facts)]
    return {name: sum(bool(getattr(facts(node), name)) for node in case.canonical.calls) for name in names}


def plain(value: Any) -> Any:
    """``value`` as JSON can say it: NaN and infinite numbers as text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
