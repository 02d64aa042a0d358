"""The answer of ``agf-fx explain``: a table for people, JSON for programs."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agf_fx.models import LoadedModel
from agf_fx.runs.console import printable, say
from agf_fx.runs.outputs import ImageRecord, MapRecord, Prediction

_TABLE_ROWS = 30
_WORTH_A_WORD = 0.01  # probability below which a class is left out of the table


@dataclass
class Summary:
    """What a run did.

    Attributes:
        model: the model that was explained.
        method: the attribution method.
        folder: where the files are.
        images: the images that were explained, in order.
        errors: file, folder or target that failed (None for the run as a whole), and why.
        warnings: image whose map says nothing, and why; it does not count as a failure.
        contact_sheets: the contact sheets written.
        interrupted: whether the run was stopped before its end.
    """

    model: LoadedModel
    method: str
    folder: Path
    images: list[ImageRecord] = field(default_factory=list)
    errors: list[tuple[str | None, str]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    contact_sheets: list[Path] = field(default_factory=list)
    interrupted: bool = False


def to_json(summary: Summary) -> str:
    """The summary as JSON text.

    Keys: ``model`` (name, weights, classes, multi_label, preprocessing in words), ``method``, ``out``, ``images``
    (each with path, predictions of the strongest classes, and maps), ``contact_sheets``, ``errors`` (each with
    source, null for a path that was not found, and message), ``warnings`` (the same) and ``interrupted``. A
    prediction has class (index), name, logit and probability; a map has those of its class, overlay and map (paths
    of the PNG and .npy files), positive and negative (sums of its relevance above and below zero), and precision (how
    far it is from the same map in float64, as a part of that one's largest value; null unless checked, or where that
    is zero everywhere).
    """
    model = summary.model
    value = {
        "model": {
            "name": model.name,
            "weights": model.weights,
            "classes": len(model.class_names),
            "multi_label": model.multi_label,
            "preprocessing": model.preprocessing.describe(),
        },
        "method": summary.method,
        "out": str(summary.folder),
        "images": [_image(record) for record in summary.images],
        "contact_sheets": [str(path) for path in summary.contact_sheets],
        "errors": [{"source": source, "message": message} for source, message in summary.errors],
        "warnings": [{"source": source, "message": message} for source, message in summary.warnings],
        "interrupted": summary.interrupted,
    }
    return json.dumps(value, indent=2, allow_nan=False)


def print_table(console: Console, summary: Summary) -> None:
    """Print what the network saw in each image and where the files are."""
    model = summary.model
    say(console, f"{model.name} (weights: {model.weights}), method {summary.method}")
    say(console, f"preprocessing: {model.preprocessing.describe()}")
    if not summary.images:
        say(console, "no image was explained")
        return
    console.print(_table(summary))
    hidden = len(summary.images) - _TABLE_ROWS
    if hidden > 0:
        say(console, f"... and {hidden} more images (all of them with --json)")
    maps = sum(len(record.maps) for record in summary.images)
    images = _count(len(summary.images), "image")
    say(console, f"{_count(maps, 'map')} of {images} in {summary.folder} (.png and .npy each)")
    for path in summary.contact_sheets:
        say(console, f"contact sheet: {path}")


def _table(summary: Summary) -> Table:
    kind = "each class on its own" if summary.model.multi_label else "one class of all"
    table = Table("image", f"the network sees ({kind})", "maps")
    parents = [os.path.abspath(record.path.parent) for record in summary.images]
    common = os.path.commonpath(parents)
    for record in summary.images[:_TABLE_ROWS]:
        first, *others = record.predictions
        likely = [first, *(prediction for prediction in others if prediction.probability >= _WORTH_A_WORD)]
        seen = ", ".join(f"{prediction.label} ({prediction.probability:.1%})" for prediction in likely)
        files = "\n".join(printable(made.overlay.name) for made in record.maps)
        table.add_row(Text(printable(os.path.relpath(record.path, common))), Text(printable(seen)), Text(files))
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _image(record: ImageRecord) -> dict[str, Any]:
    return {
        "path": str(record.path),
        "predictions": [_prediction(prediction) for prediction in record.predictions],
        "maps": [_map(made) for made in record.maps],
    }


def _map(made: MapRecord) -> dict[str, Any]:
    sums = {"positive": made.positive, "negative": made.negative}
    precision = made.precision if made.precision is not None and math.isfinite(made.precision) else None
    files = {"overlay": str(made.overlay), "map": str(made.array)}
    return {**_prediction(made.prediction), **files, **sums, "precision": precision}


def _prediction(prediction: Prediction) -> dict[str, Any]:
    return {
        "class": prediction.index,
        "name": prediction.name,
        "logit": prediction.logit,
        "probability": prediction.probability,
    }
