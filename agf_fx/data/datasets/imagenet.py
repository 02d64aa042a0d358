"""The validation images of ImageNet, ILSVRC 2012 (Russakovsky et al., 2015), in the layouts in which they are kept."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

from agf_fx.data.datasets.example import Dataset, Example
from agf_fx.data.datasets.files import contents, few, first_existing, images_by_folder, read_text, subfolders
from agf_fx.data.datasets.synsets import MAPPINGS, WORDNET_ID, Synsets, read_meta, synsets_of
from agf_fx.errors import DatasetError
from agf_fx.imaging.read import read_image

_FLAT = re.compile(r"(ILSVRC2012_val_(\d{8}))\.jpe?g", re.IGNORECASE)
_SOLUTION = "LOC_val_solution.csv"
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_KIT = "ILSVRC2012_devkit_t12/data"


class ImageNet(Dataset):
    """Images of one class each; the index of a class is its place among the sorted WordNet ids.

    Args:
        path: the folder of the validation images, or one that holds it as ``val`` or as Kaggle's
            ``ILSVRC/Data/CLS-LOC/val``. Either one folder a class, named by its WordNet id, or all images in one
            folder, with a file of labels.
        mapping: ``LOC_synset_mapping.txt`` or ``imagenet_class_index.json``; by default the one in the folder or in
            those around it. Without one, class names are WordNet ids, and all 1000 must occur.
        labels: of images in one folder: ``LOC_val_solution.csv``, or ``ILSVRC2012_validation_ground_truth.txt`` with
            ``meta.mat``; by default the one in the folder, in those around it or in the kit unpacked there.
        meta: ``meta.mat`` of the development kit; by default the one beside the labels.

    Raises:
        DatasetError: the folder has another layout, or labels or classes are missing or do not fit.
        MissingDependencyError: ``meta.mat`` is to be read, and scipy is not installed.
    """

    name = "imagenet"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        mapping: str | os.PathLike[str] | None = None,
        labels: str | os.PathLike[str] | None = None,
        meta: str | os.PathLike[str] | None = None,
    ) -> None:
        folder, ids, flat = _layout(Path(path))
        self._folder = folder
        around = [folder, *folder.absolute().parents[:4]]
        given = Path(mapping) if mapping else first_existing(place / name for place in around for name in MAPPINGS)
        if ids:
            synsets = synsets_of(ids, folder, given)
            labelled = _in_class_folders(folder, ids)
        else:
            synsets, labelled = _labelled(flat, _labels_file(labels, around), meta, given)
        indices = synsets.indices()
        self._images = [(name, indices[wordnet_id]) for name, wordnet_id in labelled]
        self.class_names = synsets.names

    def __len__(self) -> int:
        return len(self._images)

    def example_name(self, index: int) -> str:
        """The file's path in the folder."""
        return self._images[index][0]

    def known(self, index: int) -> str:
        """The image's class."""
        return str(self._images[index][1])

    def _read(self, index: int) -> Example:
        name, label = self._images[index]
        return Example(name, read_image(self._folder / name), (label,))


def _layout(path: Path) -> tuple[Path, list[str], list[str]]:
    """The folder of images, and either its class folders or the images in it."""
    for folder in (path, path / "val", path / "ILSVRC" / "Data" / "CLS-LOC" / "val"):
        if not folder.is_dir():
            continue
        ids = [name for name in subfolders(folder) if WORDNET_ID.fullmatch(name)]
        flat = sorted(name for name in os.listdir(folder) if _FLAT.fullmatch(name))
        if ids and flat:
            raise DatasetError(
                f"{folder}: has {len(flat)} images beside {len(ids)} folders of classes; move them to their classes"
            )
        if ids or flat:
            return folder, ids, flat
    raise DatasetError(
        f"{path}: neither folders named by WordNet ids (n01440764) nor images ILSVRC2012_val_00000001.JPEG here, in "
        f"val or in ILSVRC/Data/CLS-LOC/val; {contents(path)}; give the folder of the validation images"
    )


def _in_class_folders(folder: Path, ids: Sequence[str]) -> list[tuple[str, str]]:
    """Path in ``folder`` and WordNet id of each image."""
    return [(path.relative_to(folder).as_posix(), name) for name, path in images_by_folder(folder, ids)]


def _labels_file(given: str | os.PathLike[str] | None, around: list[Path]) -> Path:
    if given:
        return Path(given)
    names = (_SOLUTION, _GROUND_TRUTH, f"{_KIT}/{_GROUND_TRUTH}")
    found = first_existing(place / name for place in around for name in names)
    if found is None:
        raise DatasetError(
            f"{around[0]}: images in one folder need labels, and neither {_SOLUTION} nor {_GROUND_TRUTH} lies here or "
            f"in the folders around; {contents(around[0])}; give one as labels"
        )
    return found


def _labelled(
    flat: list[str], labels: Path, meta: str | os.PathLike[str] | None, mapping: Path | None
) -> tuple[Synsets, list[tuple[str, str]]]:
    """The classes, and the WordNet id of each image."""
    if labels.suffix.lower() == ".csv":
        told = _solution(labels)
        synsets = synsets_of(set(told.values()), labels, mapping)
    else:
        synsets, told = _ground_truth(labels, Path(meta) if meta else labels.parent / "meta.mat")
        synsets = synsets_of(synsets.ids, labels, mapping) if mapping else synsets
    keys = [_FLAT.fullmatch(name)[1] for name in flat]
    if missing := [key for key in keys if key not in told]:
        raise DatasetError(f"{labels}: has no label of {few(missing)}; give the labels of these images")
    return synsets, [(name, told[key]) for name, key in zip(flat, keys, strict=True)]


def _solution(path: Path) -> dict[str, str]:
    """WordNet id of each image: the first word of ``PredictionString``, which goes on with its box."""
    try:
        rows = csv.DictReader(io.StringIO(read_text(path)))
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (csv.Error, KeyError, IndexError, AttributeError, TypeError) as error:
        raise DatasetError(
            f"{path}: is no list of ImageId,PredictionString with a WordNet id first ({error!r}); download it again"
        ) from error


def _ground_truth(path: Path, meta: Path) -> tuple[Synsets, dict[str, str]]:
    """The classes, and WordNet id of each image: line n is the ILSVRC2012_ID of image n."""
    if not meta.is_file():
        raise DatasetError(
            f"{path}: its numbers are explained by meta.mat of the development kit, which is not at {meta}; "
            "give it as meta"
        )
    synsets, ids = read_meta(meta)
    try:
        told = [ids[int(line)] for line in read_text(path).rstrip().splitlines()]
    except (ValueError, KeyError) as error:
        raise DatasetError(f"{path}: {error} is no ILSVRC2012_ID of a class in {meta}; unpack the kit again") from error
    return synsets, {f"ILSVRC2012_val_{number:08}": wordnet_id for number, wordnet_id in enumerate(told, start=1)}
