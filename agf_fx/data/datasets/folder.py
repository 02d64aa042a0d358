"""Folders of images: with masks beside them, or one folder a class."""

from __future__ import annotations

import os
from pathlib import Path

from agf_fx.data.datasets.example import Dataset, Example
from agf_fx.data.datasets.files import (
    contents,
    few,
    images_by_folder,
    images_in,
    read_class_list,
    size_of,
    subfolders,
    without_background,
)
from agf_fx.data.datasets.masks import read_by_class, read_object
from agf_fx.errors import DatasetError
from agf_fx.imaging.read import read_image

CLASS_LIST = "classes.txt"


class Folder(Dataset):
    """Images in ``images`` with masks of equal names in ``masks``; or in folders named by their class.

    With ``classes.txt``, masks hold numbers: 0 for the background, n for the class on line n, 255 for pixels to
    ignore (65535 where there are 255 classes or more). A first line ``background`` is line 0. Without it, a mask marks
    one object, of no class, with one value besides 0. Where folders are classes, ``classes.txt`` gives their order;
    one may be empty.

    Args:
        path: the folder.
        classes: the list of classes in place of ``classes.txt``.

    Raises:
        DatasetError: the folder has neither layout, no image has a mask or one has several, or the list does not fit.
    """

    def __init__(self, path: str | os.PathLike[str], *, classes: str | os.PathLike[str] | None = None) -> None:
        self._root = Path(path)
        names = subfolders(self._root)
        listed = Path(classes) if classes else self._root / CLASS_LIST
        self.class_names = read_class_list(listed) if classes or listed.exists() else None
        self.name = f"folder-{self._root.absolute().name}"
        self._images: list[tuple[Path, Path | None, tuple[int, ...]]]
        if "images" in names and "masks" in names:
            self.class_names = without_background(self.class_names) if self.class_names else None
            self._images = [(image, mask, ()) for image, mask in _with_masks(self._root)]
        elif not names or "images" in names or "masks" in names:
            raise DatasetError(
                f"{self._root}: neither images and masks, nor folders named by classes; {contents(self._root)}; put "
                "images into images and masks of equal names into masks, or images into a folder of their class"
            )
        else:
            self.class_names = self.class_names or tuple(names)
            self._images = _in_class_folders(self._root, names, self.class_names)

    def __len__(self) -> int:
        return len(self._images)

    def example_name(self, index: int) -> str:
        """The image's path, in ``images`` where there are masks, else in the folder."""
        image, mask, _ = self._images[index]
        return image.relative_to(self._root / "images" if mask else self._root).as_posix()

    def known(self, index: int) -> str:
        """The image's class, or the size of its mask's file in bytes."""
        _, mask, classes = self._images[index]
        return ";".join(map(str, classes)) if mask is None else f"mask of {size_of(mask)} bytes"

    def _read(self, index: int) -> Example:
        path, mask_path, classes = self._images[index]
        name, image = self.example_name(index), read_image(path)
        if mask_path is None:
            return Example(name, image, classes)
        if self.class_names is None:
            return Example(name, image, masks=read_object(mask_path, image.size)[None])
        return Example(name, image, *read_by_class(mask_path, image.size, len(self.class_names)))


def _with_masks(root: Path) -> list[tuple[Path, Path]]:
    """Each image, with the mask that has its path without the ending; PNG where there is none, as reading it says."""
    images, masks = (_by_stem(root / name) for name in ("images", "masks"))
    if not images.keys() & masks.keys():
        raise DatasetError(f"{root / 'masks'}: has no mask of {few([*images])}; add them, of the images' names")
    return [(image, masks.get(stem) or root / "masks" / f"{stem}.png") for stem, image in images.items()]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in images_in(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise DatasetError(f"{folder}: {found[stem].name} and {path.name} have one name; keep one of them")
        found[stem] = path
    return found


def _in_class_folders(root: Path, names: list[str], classes: tuple[str, ...]) -> list[tuple[Path, None, tuple[int]]]:
    if unknown := [name for name in names if name not in classes]:
        raise DatasetError(
            f"{root}: folders {few(unknown)} are not in the list of {len(classes)} classes; add their names to it"
        )
    return [(path, None, (classes.index(name),)) for name, path in images_by_folder(root, names)]
