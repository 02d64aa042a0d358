"""Photographs that come inside scikit-image and scikit-learn: real pictures to explain, without a download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageOps

from agf_fx.errors import InputError, MissingDependencyError
from agf_fx.imaging.read import read_image


@dataclass(frozen=True)
class Photograph:
    """One photograph.

    Attributes:
        path: the image file, as its package installed it.
        shows: what a network trained on ImageNet should see, as class names of ImageNet.
        licence: under which it may be shown elsewhere, and whose work it is.
    """

    path: Path
    shows: tuple[str, ...]
    licence: str

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    def image(self) -> Image.Image:
        """Read it, in mode ``"RGB"`` (grey pictures too)."""
        return read_image(self.path)


_SCIKIT_IMAGE = {
    "camera.png": (("tripod",), "CC0, Lav Varshney"),
    "coffee.png": (("espresso", "cup"), "CC0, Rachel Michetti, courtesy of Pikolo Espresso Bar"),
    "chelsea.png": (("Egyptian cat", "tiger cat", "tabby"), "CC0, Stefan van der Walt"),
    "rocket.jpg": (("missile",), "public domain, SpaceX"),
}
_WITHOUT_LICENCE = {
    "motorcycle_left.png": (("moped", "motor scooter"), "none is said; Middlebury 2014 stereo benchmark"),
}
_SCIKIT_LEARN = {
    "china.jpg": (("palace",), "CC BY 2.0, danielbuechele"),
    "flower.jpg": (("daisy",), "CC BY 2.0, vultilion"),
}


def sample_photographs(*, every: bool = False) -> list[Photograph]:
    """Return photographs with objects of ImageNet: those of scikit-image's wheel first, then scikit-learn's.

    Neither package is imported, and nothing is downloaded.

    Args:
        every: also those with which no licence comes: to measure on, not to show elsewhere.

    Raises:
        MissingDependencyError: scikit-image or scikit-learn is not installed, or has come without its pictures.
    """
    folders = ((_folder("skimage", "data"), _SCIKIT_IMAGE), (_folder("sklearn", "datasets/images"), _SCIKIT_LEARN))
    if every:
        folders += ((folders[0][0], _WITHOUT_LICENCE),)
    return [Photograph(folder / name, *told) for folder, table in folders for name, told in table.items()]


def mosaic(pictures: Sequence[Image.Image], *, side: int = 256) -> Image.Image:
    """Four pictures as one: a square with the first two above the other two.

    Args:
        pictures: four Pillow images. Of each, the central square is shown.
        side: of each quarter, in pixels.

    Returns:
        Pillow image in mode ``"RGB"``, of ``2 * side`` by ``2 * side`` pixels.

    Raises:
        InputError: these are not four pictures, or ``side`` is not positive.
    """
    if len(pictures) != 4 or side < 1:
        raise InputError(f"{len(pictures)} pictures of side {side} are no mosaic; give four, and a side of 1 or more")
    whole = Image.new("RGB", (2 * side, 2 * side))
    for position, picture in enumerate(pictures):
        quarter = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
        whole.paste(quarter, (position % 2 * side, position // 2 * side))
    return whole


def _folder(package: str, inside: str) -> Path:
    spec = find_spec(package)
    places = [Path(place, inside) for place in (spec.submodule_search_locations or [])] if spec else []
    found = [place for place in places if place.is_dir()]
    if not found:
        raise MissingDependencyError(
            "the photographs come with scikit-image and scikit-learn: pip install 'agf-fx[photos]'"
        )
    return found[0]
