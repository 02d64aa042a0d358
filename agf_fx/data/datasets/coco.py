"""COCO (Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014): instances, united by class."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from agf_fx.data.datasets.example import Dataset, Example
from agf_fx.data.datasets.files import contents, first_existing, needed, read_text
from agf_fx.data.datasets.masks import wrong_size
from agf_fx.errors import DatasetError, ExampleError
from agf_fx.imaging.read import read_image

_FARTHEST = 1e6  # pixels from the corner; pycocotools takes memory for a line as long as it is
_FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "segmentation"),
}


class COCO(Dataset):
    """Images with the pixels of each class: all its instances in one mask, crowds too.

    The index of a class is the place of its category id among the sorted ones (COCO's 80 ids have gaps). Images are
    in the order of their ids; one without instances has no classes, and masks (0, H, W).

    Args:
        path: the folder that holds ``annotations/instances_<split>.json`` and the folder ``<split>`` of images; or
            the annotations themselves.
        split: which images, where ``path`` is a folder.
        images: the folder of images; by default beside the annotations or beside their folder, named as the split.

    Raises:
        DatasetError: a file is missing or of another form.
        MissingDependencyError: pycocotools is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        split: str = "val2017",
        images: str | os.PathLike[str] | None = None,
    ) -> None:
        path = Path(path)
        needed("pycocotools.mask", "the masks of COCO")
        places = [path / "annotations" / f"instances_{split}.json", path / f"instances_{split}.json"]
        annotations = first_existing(places) if path.is_dir() else path
        if annotations is None or not annotations.is_file():
            raise DatasetError(
                f"{path}: no annotations/instances_{split}.json here; {contents(path)}; unpack the annotations, or "
                "give their file"
            )
        split = annotations.stem.removeprefix("instances_")
        self._folder = Path(images) if images else _images_folder(annotations, split)
        table = _read_annotations(annotations)
        categories = sorted(table["categories"], key=lambda category: category["id"])
        self._index = {category["id"]: index for index, category in enumerate(categories)}
        self._images = sorted(table["images"], key=lambda image: image["id"])
        self._instances = _by_image(annotations, table["annotations"], self._images, self._index)
        self._path = annotations
        self.class_names = tuple(category["name"] for category in categories)
        self.name = f"coco-{split}"

    def __len__(self) -> int:
        return len(self._images)

    def example_name(self, index: int) -> str:
        """The image's ``file_name``."""
        return self._images[index]["file_name"]

    def known(self, index: int) -> str:
        """A digest of the image's annotations."""
        entry = self._images[index]
        text = json.dumps([entry["height"], entry["width"], self._instances.get(entry["id"], [])], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _read(self, index: int) -> Example:
        entry = self._images[index]
        image = read_image(self._folder / entry["file_name"])
        size = (entry["width"], entry["height"])
        if size != image.size:
            raise ExampleError(wrong_size(f"{self._path}: image {entry['id']}, {entry['file_name']}", size, image.size))
        masks: dict[int, np.ndarray] = {}
        for instance in self._instances.get(entry["id"], ()):
            mask = self._decode(instance, *image.size)
            label = self._index[instance["category_id"]]
            masks[label] = masks[label] | mask if label in masks else mask
        classes = tuple(sorted(masks))
        shape = (len(classes), image.height, image.width)
        stacked = np.array([masks[label] for label in classes], dtype=bool).reshape(shape)
        return Example(entry["file_name"], image, classes, stacked)

    def _decode(self, instance: dict[str, Any], width: int, height: int) -> np.ndarray:
        """Pixels of an instance, bool (H, W)."""
        codec = needed("pycocotools.mask", "the masks of COCO")
        segmentation = instance["segmentation"]
        try:
            if isinstance(segmentation, list):
                _check_polygons(segmentation)
                encoded = codec.merge(codec.frPyObjects(segmentation, height, width))
            else:
                counts = _checked_runs(segmentation, width, height)
                encoded = codec.frPyObjects({"size": [height, width], "counts": counts}, height, width)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=DeprecationWarning)  # pycocotools 2.0.11 with NumPy 2
                return codec.decode(encoded).astype(bool)
        except Exception as error:  # pycocotools raises Exception itself, besides TypeError, ValueError, ...
            raise ExampleError(
                f"{self._path}: the segmentation of annotation {instance['id']} is damaged ({error}); "
                "leave its image out"
            ) from error


def _images_folder(annotations: Path, split: str) -> Path:
    places = [annotations.absolute().parent.parent / split, annotations.parent / split]
    folder = first_existing(places)
    if folder is None:
        raise DatasetError(
            f"{annotations}: no folder {split} of images beside it or beside its folder; "
            f"{contents(places[0].parent)}; give the folder as images"
        )
    return folder


def _read_annotations(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        table = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is not valid JSON ({error}); unpack the annotations again") from error
    for name, fields in _FIELDS.items():
        rows = table.get(name) if isinstance(table, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= {*fields} for row in rows):
            raise DatasetError(
                f"{path}: has no list {name} with {', '.join(fields)} in each entry; give instances_val2017.json"
            )
    return table


def _by_image(
    path: Path, annotations: list[dict[str, Any]], images: list[dict[str, Any]], index: dict[int, int]
) -> dict[int, list[dict[str, Any]]]:
    """Category and segmentation of the instances in each image."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    known = {image["id"] for image in images}
    for row in annotations:
        if row["image_id"] not in known or row["category_id"] not in index:
            raise DatasetError(
                f"{path}: annotation {row['id']} is of image {row['image_id']} and category {row['category_id']}, "
                "which are not both listed; download the annotations again"
            )
        found[row["image_id"]].append({key: row[key] for key in ("id", "category_id", "segmentation")})
    return dict(found)


def _check_polygons(polygons: list[Any]) -> None:
    """Refuse what pycocotools would misread: four numbers as a box, coordinates that are no places."""
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon has three points or more, x and y of each")
    if not all((np.abs(np.asarray(polygon, dtype=float)) < _FARTHEST).all() for polygon in polygons):
        raise ValueError("a polygon has coordinates that are not finite, or a million pixels away")


def _checked_runs(segmentation: dict[str, Any], width: int, height: int) -> list[int]:
    """Runs down the columns, of zeros first, that fill the image; pycocotools itself takes those that do not."""
    counts, size = segmentation["counts"], segmentation["size"]
    if [*size] != [height, width]:
        raise ValueError(f"its size is {size}, the image's {[height, width]}")
    counts = _decompressed(counts) if isinstance(counts, str) else counts
    if any(count != int(count) for count in counts) or sum(counts) != width * height or min(counts) < 0:
        raise ValueError(f"its runs are {sum(counts)} pixels long, the image {width * height}")
    return [int(count) for count in counts]


def _decompressed(text: str) -> list[int]:
    """The runs in a compressed string, as ``rleFrString`` of COCO's maskApi.c reads it.

    A character has five bits of a number, the lowest first, and one that says whether more follow. From the fourth
    on, a number is what its run has more than the last but one.
    """
    runs: list[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"its runs have the character {character!r}")
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            value -= (code & 16) << bits - 4  # the sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    if bits:
        raise ValueError("its runs are cut off")
    return runs
