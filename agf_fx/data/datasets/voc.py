"""PASCAL VOC 2012, semantic segmentation (Everingham et al., "The PASCAL Visual Object Classes Challenge", 2015)."""

from __future__ import annotations

import os
from pathlib import Path

from agf_fx.data.datasets.example import Dataset, Example
from agf_fx.data.datasets.files import contents, first_existing, read_lines, size_of
from agf_fx.data.datasets.masks import read_by_class
from agf_fx.errors import DatasetError
from agf_fx.imaging.read import read_image

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class VOC2012(Dataset):
    """Images with the pixels of each of 20 classes; void pixels, at borders and of difficult objects, are ignored.

    Args:
        path: the folder ``VOC2012``, or one that holds it or ``VOCdevkit``.
        split: the list of images: ``train``, ``val`` or ``trainval``.

    Raises:
        DatasetError: the folders or the list are missing.
    """

    def __init__(self, path: str | os.PathLike[str], *, split: str = "val") -> None:
        path = Path(path)
        roots = [path, path / "VOC2012", path / "VOCdevkit" / "VOC2012"]
        root = first_existing(root for root in roots if (root / "ImageSets" / "Segmentation").is_dir())
        if root is None:
            raise DatasetError(
                f"{path}: no ImageSets/Segmentation here, nor in VOC2012 or VOCdevkit/VOC2012; {contents(path)}; "
                "give the folder VOC2012 of the unpacked VOCtrainval_11-May-2012.tar"
            )
        for folder in ("JPEGImages", "SegmentationClass"):
            if not (root / folder).is_dir():
                raise DatasetError(f"{root}: has no folder {folder}; {contents(root)}; unpack the archive again")
        lists = root / "ImageSets" / "Segmentation"
        if not (lists / f"{split}.txt").is_file():
            raise DatasetError(f"{lists}: has no list {split}.txt; {contents(lists)}; choose another split")
        self._root = root
        self._ids = read_lines(lists / f"{split}.txt")
        self.name = f"voc2012-{split}"
        self.class_names = CLASSES

    def __len__(self) -> int:
        return len(self._ids)

    def example_name(self, index: int) -> str:
        """The image's name in the list, as ``2007_000033``."""
        return self._ids[index]

    def known(self, index: int) -> str:
        """The size of the mask's file in bytes."""
        return f"mask of {size_of(self._mask(self._ids[index]))} bytes"

    def _mask(self, name: str) -> Path:
        return self._root / "SegmentationClass" / f"{name}.png"

    def _read(self, index: int) -> Example:
        name = self._ids[index]
        image = read_image(self._root / "JPEGImages" / f"{name}.jpg")
        return Example(name, image, *read_by_class(self._mask(name), image.size, len(CLASSES)))
