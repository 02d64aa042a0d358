"""Lists of images with labels and masks, as CSV or Parquet."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agf_fx.data.datasets.example import Dataset, Example
from agf_fx.data.datasets.files import few, needed, read_class_list, size_of, without_background
from agf_fx.data.datasets.folder import CLASS_LIST
from agf_fx.data.datasets.masks import read_by_class, read_object
from agf_fx.errors import DatasetError, ExampleError
from agf_fx.imaging.read import read_image

_SEVERAL = ";"
_LISTS = (list, tuple, np.ndarray)
_NEGATIVE = re.compile(r"-\d+(\.0)?")


class _Row(NamedTuple):
    """A row as it stands in the file, lists split."""

    image: str
    labels: list[str]
    masks: list[str]


class Table(Dataset):
    """A file with a column ``image`` (a path), and ``label`` and ``mask`` if it has them; others are left out.

    A label is the name of a class, or its index; several are separated by ``;``, or a list in Parquet. With labels,
    ``mask`` has the path of one mask a label, in their order, again separated by ``;`` or as a list; each marks its
    object with one value besides 0. Without labels it has one path: of a mask of class numbers as in `Folder` where
    there is a list of classes, else of an object without class. Relative paths begin at the file's folder.

    Args:
        path: a file ``.csv`` or ``.parquet``.
        classes: a list of classes, one name a line; by default ``classes.txt`` beside the file. Without one, labels
            that are all numbers are indices of classes without names, and other labels are names, sorted.

    Raises:
        DatasetError: the file cannot be read, a row names no image, none has the masks of its labels, or a label is no
            class.
        MissingDependencyError: pandas, or pyarrow for Parquet, is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, classes: str | os.PathLike[str] | None = None) -> None:
        path = Path(path)
        frame = _read_table(path)
        rows = _rows(path, frame)
        listed = Path(classes) if classes else path.parent / CLASS_LIST
        self._numbered = bool(classes) or listed.exists()  # whether masks may hold class numbers
        self.class_names = without_background(read_class_list(listed)) if self._numbered else None
        if self.class_names is None:
            _refuse_negative(path, rows)
        labels = [label for row in rows for label in row.labels]
        if self.class_names is None and None in map(_index, labels):
            self.class_names = tuple(sorted(set(labels)))
        self._classes = [_indices(path, number, row, self.class_names) for number, row in enumerate(rows, start=1)]
        self._path, self._folder, self._masked = path, path.parent, "mask" in frame.columns
        self._rows, self._names = rows, _unique([row.image for row in rows])
        self.name = f"table-{path.stem}"

    def __len__(self) -> int:
        return len(self._rows)

    def example_name(self, index: int) -> str:
        """The row's ``image``; of rows with the same image, from the second on, followed by ``#2``, ``#3``, ..."""
        return self._names[index]

    def known(self, index: int) -> str:
        """The row's classes, and its masks with the sizes of their files in bytes."""
        masks = (f"{mask} of {size_of(self._folder / mask)} bytes" for mask in self._rows[index].masks)
        return ";".join([*map(str, self._classes[index]), *masks])

    def _read(self, index: int) -> Example:
        row, classes, name = self._rows[index], self._classes[index], self._names[index]
        if self._masked and (wrong := _wrong_masks(self._path, index + 1, row)):
            raise ExampleError(wrong)
        image = read_image(self._folder / row.image)
        if not self._masked:
            return Example(name, image, classes)
        paths = [self._folder / mask for mask in row.masks]
        if classes or not self._numbered:
            return Example(name, image, classes, np.stack([read_object(path, image.size) for path in paths]))
        return Example(name, image, *read_by_class(paths[0], image.size, len(self.class_names)))


def _read_table(path: Path) -> Any:
    """The file as a data frame; of CSV, all as text."""
    pandas = needed("pandas", "lists of images")
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise DatasetError(f"{path}: a list of images ends in .csv or .parquet; convert it to one of these")
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; check the path")
    try:
        if path.suffix.lower() == ".csv":
            return pandas.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        needed("pyarrow.parquet", "Parquet files")
        return pandas.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"{path}: cannot be read as a table ({error}); write it again") from error


def _rows(path: Path, frame: Any) -> list[_Row]:
    if "image" not in frame.columns or not len(frame):
        found = f"the columns are {few([*frame.columns], 8)}" if len(frame.columns) else "there are no columns"
        raise DatasetError(f"{path}: needs a column image and a row; {found}, of {len(frame)} rows; add them")
    columns = [_cells(frame, name) for name in ("image", "label", "mask")]
    try:
        rows = [_Row(_text(image), _parts(label), _parts(mask)) for image, label, mask in zip(*columns, strict=True)]
    except TypeError as error:
        raise DatasetError(f"{path}: {error}; give one text, or a list of texts as label or mask") from error
    for number, row in enumerate(rows, start=1):
        if not row.image:
            raise DatasetError(f"{path}: row {number} names no image; fill in the column image")
    wrong = [_wrong_masks(path, number, row) for number, row in enumerate(rows, start=1)]
    if "mask" in frame.columns and all(wrong):
        raise DatasetError(wrong[0])
    return rows


def _wrong_masks(path: Path, number: int, row: _Row) -> str:
    """What is wrong with the number of masks that a row names; "" if nothing is."""
    if len(row.masks) == max(1, len(row.labels)):
        return ""
    return (
        f"{path}: row {number} ({row.image}) has {len(row.labels)} labels and {len(row.masks)} masks; give a mask for "
        f"each label, separated by {_SEVERAL}, or one where there is no label"
    )


def _cells(frame: Any, name: str) -> list[Any]:
    """A column's cells, "" where one is missing; all are, where there is no such column."""
    if name not in frame.columns:
        return [""] * len(frame)
    return ["" if missing else cell for cell, missing in zip(frame[name], frame[name].isna(), strict=True)]


def _text(value: Any) -> str:
    """A value as text: empty if it is missing, whole numbers without a fraction.

    Raises:
        TypeError: it is a list.
    """
    if isinstance(value, _LISTS):
        raise TypeError(f"a list stands in the place of one text ({[*value]!r:.80})")
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _parts(value: Any) -> list[str]:
    """What is listed in a cell, as Parquet's lists or separated; errors as for `_text`."""
    texts = map(_text, value) if isinstance(value, _LISTS) else map(str.strip, _text(value).split(_SEVERAL))
    return [text for text in texts if text]


def _refuse_negative(path: Path, rows: Sequence[_Row]) -> None:
    for number, row in enumerate(rows, start=1):
        if negative := [label for label in row.labels if _NEGATIVE.fullmatch(label)]:
            raise DatasetError(
                f"{path}: row {number} has the label {negative[0]!r}, and no class has a negative number; leave the "
                "label empty where there is none, or name the classes in a list"
            )


def _index(label: str) -> int | None:
    """The number that a label is; 7.0 is 7, as a column of numbers is written where one is missing."""
    digits = label.removesuffix(".0")
    return int(digits) if digits.isascii() and digits.isdecimal() else None


def _indices(path: Path, number: int, row: _Row, names: Sequence[str] | None) -> tuple[int, ...]:
    """Indices of the row's labels: of a name, or of the class that the number says."""
    found = []
    for label in row.labels:
        if names is not None and label in names:
            found.append(names.index(label))
        elif (index := _index(label)) is not None and (names is None or index < len(names)):
            found.append(index)
        else:
            raise DatasetError(f"{path}: row {number} has the label {label!r}, which is none of {len(names)} classes")
    if len(set(found)) < len(found):
        raise DatasetError(f"{path}: row {number} ({row.image}) has a label twice; keep one of them")
    return tuple(found)


def _unique(names: list[str]) -> list[str]:
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return found
