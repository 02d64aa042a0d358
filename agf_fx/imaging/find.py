"""List the image files that a user names, by file or by folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from agf_fx.errors import ImageError

_SUFFIXES = "apng avif bmp dib gif ico jfif jp2 jpe jpeg jpg mpo pbm pcx pgm png pnm ppm qoi tga tif tiff webp"
IMAGE_SUFFIXES = frozenset(f".{ending}" for ending in _SUFFIXES.split())
"""Endings by which image files are recognised inside a folder; a file named outright is always tried."""


class FoundImages(NamedTuple):
    """What `find_images` found.

    Attributes:
        paths: the image files, each once, in the order of the arguments and sorted inside a folder.
        problems: one error for each argument or subfolder that could not be used.
    """

    paths: list[Path]
    problems: list[ImageError]


def find_images(paths: Iterable[str | os.PathLike[str]], *, skip: str | os.PathLike[str] | None = None) -> FoundImages:
    """List the images named by files and folders.

    Folders are searched recursively, in sorted order, without following links to folders, for files with an
    ending in `IMAGE_SUFFIXES`; hidden files and folders are left out. Files named outright are taken as they
    are, whatever their ending; whether they can be read is for `read_image` to say.

    Args:
        paths: files and folders.
        skip: a folder to leave out when it lies inside one that is searched (the output folder of an
            earlier run, for example).

    Returns:
        The files found and the problems met; a missing path or a folder without images is a problem and
        does not stop the search.
    """
    found: dict[str, Path] = {}
    problems: list[ImageError] = []
    for path in map(Path, paths):
        for item in _expand(path, None if skip is None else os.path.realpath(skip)):
            if isinstance(item, ImageError):
                problems.append(item)
            else:
                found.setdefault(os.path.abspath(item), item)
    return FoundImages(list(found.values()), problems)


def _expand(path: Path, skip: str | None) -> Iterator[Path | ImageError]:
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        yield ImageError(f"{path}: cannot be looked up ({error}); check the path")
        return
    if not exists:
        yield ImageError(f"{path}: no such file or folder; check the path")
    elif not is_folder:
        yield path
    else:
        yield from _walk(path, skip) or [
            ImageError(f"{path}: no images in this folder; look for files like *.png, *.jpg")
        ]


def _walk(folder: Path, skip: str | None) -> list[Path | ImageError]:
    failed: list[OSError] = []
    paths: list[Path] = []
    for root, folders, files in os.walk(folder, onerror=failed.append):
        kept = (name for name in folders if not name.startswith("."))
        folders[:] = [name for name in kept if os.path.realpath(os.path.join(root, name)) != skip]
        names = (name for name in files if not name.startswith("."))
        paths += [Path(root, name) for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    advice = "make the folder readable"
    problems = [ImageError(f"{error.filename}: cannot be listed ({error.strerror}); {advice}") for error in failed]
    return [*problems, *sorted(paths)]
