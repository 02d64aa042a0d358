"""The scenes that come with the package: PNG files with known labels and masks; needs no scikit-learn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

INDEX = "scenes.json"


@dataclass(frozen=True, eq=False)
class SampleScene:
    """One bundled scene of two handwritten digits, by writers whom the bundled networks were not trained on.

    Attributes:
        path: the image file, RGB PNG of 64x64 pixels.
        labels: classes of the two digits.
        masks: bool (2, 64, 64), the pixels of each digit, as in `agf_fx.data.Scenes`.
    """

    path: Path
    labels: tuple[int, int]
    masks: Tensor

    def image(self) -> Tensor:
        """Read the image, float32 (3, 64, 64) in [0, 1]."""
        with Image.open(self.path) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def sample_scenes() -> list[SampleScene]:
    """Return the bundled scenes, in the order of ``agf_fx/assets/scenes/scenes.json``."""
    assets = Path(str(files("agf_fx.assets")))
    index = json.loads((assets / "scenes" / INDEX).read_text())
    return [_load(assets, entry) for entry in index["scenes"]]


def _load(assets: Path, entry: dict) -> SampleScene:
    masks = torch.stack([_read_mask(assets / "masks" / name) for name in entry["masks"]])
    first, second = entry["labels"]
    return SampleScene(assets / "scenes" / entry["image"], (first, second), masks)


def _read_mask(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("L"))) > 127
