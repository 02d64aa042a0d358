"""What needs no download: scenes of digits, and the photographs that come inside scikit-image and scikit-learn."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import torch
from PIL import Image, ImageDraw

from agf_fx.data.datasets.example import Dataset, Example
from agf_fx.data.photographs import sample_photographs
from agf_fx.data.scenes import digit_scenes
from agf_fx.errors import OptionsError

_SCENES = 500


class DigitScenes(Dataset):
    """Scenes of two digits, each with its class and its mask: handwriting that scikit-learn brings along.

    Args:
        path: how many scenes, in words; "" for 500.
        split: ``"test"``, by writers that the bundled networks have not seen, or ``"train"``.
        seed: of the scenes.

    Raises:
        OptionsError: ``path`` is no number of 1 or more.
        MissingDependencyError: scikit-learn is not installed.
    """

    class_names = tuple(map(str, range(10)))

    def __init__(self, path: str = "", *, split: str = "test", seed: int = 2) -> None:
        text = str(path)
        if text and not (text.isdecimal() and int(text)):
            raise OptionsError(f"digits:{text} is no number of scenes; write digits:500, or digits alone")
        self.name = f"digits-{split}"
        self._scenes = digit_scenes(int(text or _SCENES), split=split, seed=seed)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._scenes.images)

    def example_name(self, index: int) -> str:
        """The number of the scene, with the seed."""
        return f"scene-{self._seed}-{index:05d}"

    def _read(self, index: int) -> Example:
        pixels = (self._scenes.images[index] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        classes = tuple(self._scenes.labels[index].tolist())
        return Example(self.example_name(index), Image.fromarray(pixels), classes, self._scenes.masks[index].numpy())


class Photographs(Dataset):
    """The photographs of scikit-image and scikit-learn that a network trained on ImageNet knows, each with its class.

    Masks are polygons drawn by hand (``assets/photographs.json``): the tripod, the cat, the palace, the cup, the flower
    and the rocket; as ImageNet has them, "tripod", "Egyptian cat", "palace", "espresso", "daisy" and "missile".

    Args:
        path: "", as these photographs are where their packages are.

    Raises:
        OptionsError: ``path`` is another.
        MissingDependencyError: scikit-image or scikit-learn is not installed.
    """

    name = "photographs"

    def __init__(self, path: str = "") -> None:
        if str(path):
            raise OptionsError("photographs takes no path; they come with scikit-image and scikit-learn")
        self._photographs = sample_photographs()
        self.class_names = tuple(photograph.shows[0] for photograph in self._photographs)
        text = files("agf_fx.assets").joinpath("photographs.json").read_text(encoding="utf-8")
        self._polygons: dict[str, list[list[list[int]]]] = json.loads(text)

    def __len__(self) -> int:
        return len(self._photographs)

    def example_name(self, index: int) -> str:
        """The name of the file, without its ending."""
        return self._photographs[index].name

    def _read(self, index: int) -> Example:
        name, image = self.example_name(index), self._photographs[index].image()
        mask = Image.new("1", image.size)
        for polygon in self._polygons[name]:
            ImageDraw.Draw(mask).polygon([tuple(point) for point in polygon], fill=1)
        return Example(name, image, (index,), np.array(mask)[None])
