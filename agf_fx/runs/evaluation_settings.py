"""Settings of experiments as a command line gives them: which there are, and which values they can have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from agf_fx.evaluate.experiments import EXPERIMENTS
from agf_fx.evaluate.imputation import WAYS, Imputation

MOSAICS = {"grid": 2, "separation": None, "saliency-bias": None}
"""Experiments that can be played on mosaics of the dataset's pictures, with how many cells if the user says nothing."""

LEAST = {"region": 1, "steps": 1, "samples": 1, "tolerance": 0, "seed": 0}
"""The smallest value of settings that have one, so that it is refused once, and not for each image."""

_GIVEN = ("return", "subject", "batch")
_Way = Literal["mean", "blur", "road"]
assert get_args(_Way) == tuple(WAYS)


def settings_of(experiment: str) -> dict[str, Any]:
    """The type of each setting, by name."""
    hints = get_type_hints(EXPERIMENTS[experiment].measure)
    known = {name: kind for name, kind in hints.items() if name not in _GIVEN}
    known |= {"impute": _Way | None} if known.get("impute") == Imputation | None else {}
    return known | ({"cells": int, "confidence": float} if experiment in MOSAICS else {})


def fits(value: object, kind: Any) -> bool:
    """Whether a value is of a type: numbers are no words, whole ones stand for others, and none is true or false."""
    if get_origin(kind) in (Union, UnionType):
        return any(fits(value, one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is Sequence:
        return isinstance(value, list) and all(fits(one, *get_args(kind)) for one in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


def said(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(said(one) for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is Sequence:
        return "a list of numbers such as [1, 0.5]"
    return {int: "a whole number", float: "a finite number"}.get(kind, str(kind))
