"""ImageNet-Segmentation (Guillaumin, Küttel and Ferrari, "ImageNet Auto-Annotation with Segmentation Propagation",
IJCV 2014): 4276 images of ImageNet with the pixels of their object, in one file of MATLAB 7.3, which is HDF5.

The file holds a struct ``value`` with cells. In HDF5 a cell is an array of references, and every array has its
dimensions reversed: an image is (3, W, H), a mask (W, H).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from agf_fx.data.datasets.example import Dataset, Example
from agf_fx.data.datasets.files import contents, file_digest, needed
from agf_fx.data.datasets.masks import wrong_size
from agf_fx.errors import DatasetError, ExampleError

_FILE = "gtsegs_ijcv.mat"
_CELLS = ("img", "gt")
_PURPOSE = "files of MATLAB 7.3"


class _Opened(NamedTuple):
    """The file as a process has opened it, and the references in its cells."""

    process: int
    file: Any
    cells: dict[str, np.ndarray]


class ImageNetSegmentation(Dataset):
    """Images with the mask of one object, whose class is not said.

    Args:
        path: ``gtsegs_ijcv.mat``, or the folder that holds it.

    Raises:
        DatasetError: the file is missing or of another form.
        MissingDependencyError: h5py is not installed.
    """

    name = "imagenet-segmentation"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        h5py = needed("h5py", _PURPOSE)
        self._path = path / _FILE if path.is_dir() else path
        self._opened: _Opened | None = None
        if not self._path.is_file():
            raise DatasetError(f"{self._path}: no such file; {contents(self._path.parent)}; give {_FILE}")
        try:
            with h5py.File(self._path, "r") as file:
                cells = {name: file.get(f"value/{name}") for name in _CELLS}
                for name, cell in cells.items():
                    if not isinstance(cell, h5py.Dataset) or h5py.check_ref_dtype(cell.dtype) is None:
                        raise DatasetError(
                            f"{self._path}: has no cell value.{name}; it holds {', '.join(file) or 'nothing'}; "
                            f"give {_FILE} as it was published"
                        )
                counts = {name: cell.size for name, cell in cells.items()}
        except OSError as error:
            raise DatasetError(f"{self._path}: is not a file of MATLAB 7.3 ({error}); download it again") from error
        if counts["img"] != counts["gt"]:
            raise DatasetError(f"{self._path}: {counts['img']} images and {counts['gt']} masks; download it again")
        self._count = int(counts["img"])

    def __len__(self) -> int:
        return self._count

    def example_name(self, index: int) -> str:
        """The image's position in the file, from ``00000``."""
        return f"{index:05}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _shared(self) -> Iterable[object]:
        return (file_digest(self._path),)

    def _read(self, index: int) -> Example:
        pixels, values = self._array("img", index), self._array("gt", index)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ExampleError(
                f"{self._path}: image {index} is {pixels.dtype} {pixels.shape[::-1]}, not uint8 (3, W, H); leave it out"
            )
        size = (pixels.shape[1], pixels.shape[0])
        if values.shape != pixels.shape[:2]:
            found = values.shape[::-1] if values.ndim == 2 else (values.size, 1)
            raise ExampleError(wrong_size(f"{self._path}: image {index}", found, size))
        return Example(self.example_name(index), Image.fromarray(pixels), masks=(values != 0)[None])

    def _array(self, cell: str, index: int) -> np.ndarray:
        """What a cell's entry refers to, through further cells, in the order of MATLAB's dimensions."""
        try:
            file, references = self._open()
            array = file[references[cell][index]]
            while array.dtype == object:
                array = file[array[()].reshape(-1)[0]]
            return np.ascontiguousarray(array[()].T)
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            raise ExampleError(
                f"{self._path}: value.{cell} of image {index} cannot be read ({error}); download the file again"
            ) from error

    def _open(self) -> tuple[Any, dict[str, np.ndarray]]:
        """The file and the references of both cells, opened by this process: a fork must not read by its parent's."""
        if self._opened is None or self._opened.process != os.getpid():
            file = needed("h5py", _PURPOSE).File(self._path, "r")
            cells = {name: file[f"value/{name}"][()].reshape(-1) for name in _CELLS}
            self._opened = _Opened(os.getpid(), file, cells)
        return self._opened.file, self._opened.cells
