"""Write the files of explained images, and remember what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from agf_fx.atomic import save_array, save_image
from agf_fx.imaging.render import Panel, contact_sheet, map_panel, picture_panel, side_by_side
from agf_fx.models import LoadedModel
from agf_fx.runs.batches import Explained
from agf_fx.runs.naming import output_stem

SHEET_ROWS = 24
"""Images on one contact sheet."""

_SHOWN = 3  # predictions reported for each image


@dataclass(frozen=True)
class Prediction:
    """A class with what the network says of it."""

    index: int
    name: str
    logit: float
    probability: float

    @property
    def label(self) -> str:
        """The name, or ``class 3`` where the name is only the index."""
        return f"class {self.index}" if self.name == str(self.index) else self.name


@dataclass(frozen=True)
class MapRecord:
    """One map that was written.

    Attributes:
        prediction: the class it explains.
        overlay: the PNG file.
        array: the ``.npy`` file, float32 (H, W).
        positive: sum of the relevance above zero.
        negative: sum of the relevance below zero.
        precision: how far the map is from the same map in float64, as in `agf_fx.Explanation`; None if not checked.
    """

    prediction: Prediction
    overlay: Path
    array: Path
    positive: float
    negative: float
    precision: float | None = None


@dataclass(frozen=True)
class ImageRecord:
    """One image that was explained: what the network saw, strongest class first, and the maps."""

    path: Path
    predictions: tuple[Prediction, ...]
    maps: tuple[MapRecord, ...]


def write_image(
    explained: Explained, model: LoadedModel, folder: Path, stem: str, smooth: float = 0.0, clip: float = 1.0
) -> tuple[ImageRecord, list[Panel]]:
    """Write overlay and raw map of every target of one image.

    Args:
        explained: the image with its maps.
        model: for class names and probabilities.
        folder: where to write; it exists.
        stem: start of the file names, from `unique_stems`.
        smooth: standard deviation in pixels of the blur of overlays; raw maps are written as they are.
        clip: the share of a map's pixels that the scale of its overlay reaches.

    Returns:
        What was written, and the panels of the image's row on a contact sheet.

    Raises:
        NonFiniteInputError: a map is not finite.
        OptionsError: ``smooth`` is too large for the map, or ``clip`` no share.
        OSError: a file cannot be written.
    """
    predictions = _predictions(explained.logits, model)
    picture = picture_panel(explained.shown)
    panels, records = [Panel(stem, picture)], []
    checked = explained.precision or [None] * len(explained.target)
    for index, relevance, precision in zip(explained.target, explained.maps, checked, strict=True):
        prediction = predictions[index]
        heat = map_panel(explained.shown, relevance, smooth=smooth, clip=clip)
        base = folder / output_stem(stem, index, prediction.name)
        overlay, array = Path(f"{base}.png"), Path(f"{base}.npy")
        save_image(overlay, side_by_side([picture, heat]))
        save_array(array, relevance)
        positive, negative = float(relevance.clip(min=0).sum()), float(relevance.clip(max=0).sum())
        records.append(MapRecord(prediction, overlay, array, positive, negative, precision))
        panels.append(Panel(f"{prediction.label} ({prediction.probability:.1%})", heat))
    strongest = explained.logits.argsort(descending=True)[:_SHOWN].tolist()
    return ImageRecord(explained.path, tuple(predictions[i] for i in strongest), tuple(records)), panels


class ContactSheets:
    """Contact sheets of a run, written as soon as they are full so that memory stays small.

    The file is ``contact-sheet.png``, or ``contact-sheet-001.png`` and so on when one cannot hold all images.
    """

    def __init__(self, folder: Path, images: int) -> None:
        self._folder = folder
        self._numbered = images > SHEET_ROWS
        self._rows: list[Sequence[Panel]] = []
        self.written: list[Path] = []

    def add(self, row: Sequence[Panel]) -> None:
        """Add the panels of one image (`OSError` when a full sheet cannot be written)."""
        self._rows.append(row)
        if len(self._rows) == SHEET_ROWS:
            self.close()

    def close(self) -> None:
        """Write the rows that are not written yet (`OSError` when that fails)."""
        if not self._rows:
            return
        number = f"-{len(self.written) + 1:03d}" if self._numbered else ""
        path = self._folder / f"contact-sheet{number}.png"
        rows, self._rows = self._rows, []
        save_image(path, contact_sheet(rows))
        self.written.append(path)


def _predictions(logits: torch.Tensor, model: LoadedModel) -> list[Prediction]:
    probabilities = model.probabilities(logits[None])[0].tolist()
    rows = zip(model.class_names, logits.tolist(), probabilities, strict=True)
    return [Prediction(index, *row) for index, row in enumerate(rows)]
