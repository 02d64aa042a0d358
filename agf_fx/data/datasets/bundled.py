"""What needs no download: scenes of digits, and the photographs that come inside scikit-image and scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from agf_fx.data.datasets.example import Dataset, Example
from agf_fx.data.photographs import sample_photographs
from agf_fx.data.scenes import digit_scenes
from agf_fx.errors import OptionsError

_SCENES = 500
_LEAST, _MOST, _ENOUGH, _TRIES = 0.6, 0.95, 0.85, 100  # of crops: sides, how much of the object, draws


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
        self.name = f"digits-{split}"
        self._scenes = digit_scenes(_count(path, _SCENES, "digits", "scenes"), split=split, seed=seed)
        self._split, self._seed = split, seed

    def __len__(self) -> int:
        return len(self._scenes.images)

    def example_name(self, index: int) -> str:
        """The number of the scene, with the seed."""
        return f"scene-{self._seed}-{index:05d}"

    def _shared(self) -> Iterable[object]:
        return self._split, self._seed

    def _read(self, index: int) -> Example:
        pixels = (self._scenes.images[index] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        classes = tuple(self._scenes.labels[index].tolist())
        return Example(self.example_name(index), Image.fromarray(pixels), classes, self._scenes.masks[index].numpy())


class Photographs(Dataset):
    """The photographs of scikit-image and scikit-learn that a network trained on ImageNet knows, each with its class.

    Masks are polygons drawn by hand (``assets/photographs.json``): the tripod, the cup, the cat, the rocket, the
    palace, the flower and the motorcycle; as ImageNet has them, "tripod", "espresso", "Egyptian cat", "missile",
    "palace", "daisy" and "moped".

    Args:
        path: how many views of each photograph, in words; "" for one, the photograph itself. Others are random crops
            that keep most of the object, and every second of them is mirrored.
        seed: of the crops.

    Raises:
        OptionsError: ``path`` is no number of 1 or more.
        MissingDependencyError: scikit-image or scikit-learn is not installed.
    """

    name = "photographs"

    def __init__(self, path: str = "", *, seed: int = 0) -> None:
        self._views = _count(path, 1, "photographs", "views of each")
        self._seed = seed
        self._photographs = sample_photographs(every=True)
        self.class_names = tuple(photograph.shows[0] for photograph in self._photographs)
        text = files("agf_fx.assets").joinpath("photographs.json").read_text(encoding="utf-8")
        self._polygons: dict[str, list[list[list[int]]]] = json.loads(text)

    def __len__(self) -> int:
        return len(self._photographs) * self._views

    def example_name(self, index: int) -> str:
        """The name of the file, without its ending, and the number of the view from 2."""
        view, which = divmod(index, len(self._photographs))
        return self._photographs[which].name + (f"-{view + 1}" if view else "")

    def _shared(self) -> Iterable[object]:
        return (self._seed,)

    def _read(self, index: int) -> Example:
        view, which = divmod(index, len(self._photographs))
        image = self._photographs[which].image()
        mask = Image.new("L", image.size)
        for polygon in self._polygons[self._photographs[which].name]:
            ImageDraw.Draw(mask).polygon([tuple(point) for point in polygon], fill=255)
        if view:
            box = _crop(np.array(mask) > 0, np.random.default_rng([self._seed, which, view]))
            image, mask = image.crop(box), mask.crop(box)
            if view % 2:
                image, mask = ImageOps.mirror(image), ImageOps.mirror(mask)
        return Example(self.example_name(index), image, (which,), (np.array(mask) > 0)[None])


def _crop(mask: np.ndarray, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random part of an image that has most of an object (H, W) bool.

    Its sides are 60 % to 95 % of the image's, each; of a hundred parts it is the first with 85 % of the object, else
    the one that has most of it.
    """
    height, width = mask.shape
    best, kept = (0, 0, width, height), 0
    for _ in range(_TRIES):
        sides = (generator.uniform(_LEAST, _MOST, 2) * (height, width)).round().astype(int)
        top, left = (
            int(generator.integers(0, whole - side + 1)) for whole, side in zip(mask.shape, sides, strict=True)
        )
        bottom, right = top + int(sides[0]), left + int(sides[1])
        inside = int(mask[top:bottom, left:right].sum())
        if inside > kept:
            best, kept = (left, top, right, bottom), inside
        if inside >= _ENOUGH * mask.sum():
            break
    return best


def _count(text: str, usual: int, kind: str, what: str) -> int:
    """A number of 1 or more, in words.

    Raises:
        OptionsError: it is none.
    """
    text = str(text)
    if text and not (text.isdecimal() and int(text)):
        raise OptionsError(f"{kind}:{text} is no number of {what}; write {kind}:{usual * 8}, or {kind} alone")
    return int(text or usual)
