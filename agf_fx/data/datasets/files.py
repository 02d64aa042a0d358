"""What the kinds of datasets share: looking for files, saying what was found, reading lists."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from agf_fx.errors import DatasetError, MissingDependencyError
from agf_fx.imaging.find import find_images
from agf_fx.regular import open_regular, read_regular

_LONGEST = 256 * 2**20  # bytes of a list


def needed(module: str, purpose: str) -> ModuleType:
    """Import an optional module.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(f"{purpose} need {package}: pip install 'agf-fx[datasets]'.") from error


def first_existing(candidates: Iterable[Path]) -> Path | None:
    """The first of these files or folders that exists."""
    return next((path for path in candidates if path.exists()), None)


def contents(folder: Path) -> str:
    """What lies in a folder, in a few words, for messages."""
    if not folder.is_dir():
        return f"{folder} is {'no folder' if folder.exists() else 'not there'}"
    folders, files = subfolders(folder), sorted(path.name for path in folder.iterdir() if not path.is_dir())
    return f"it holds {_some('folder', folders)} and {_some('file', files)}"


def few(items: Sequence[object], most: int = 3) -> str:
    """The first of these, and how many more."""
    return ", ".join(map(str, items[:most])) + (f" and {len(items) - most:,} more" if len(items) > most else "")


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted, without hidden ones.

    Raises:
        DatasetError: it is no folder, or cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror}); give an existing folder") from error


def images_in(folder: Path) -> list[Path]:
    """The images in a folder and below it, sorted.

    Raises:
        DatasetError: there are none, or a folder cannot be listed.
    """
    found = find_images([folder])
    if found.problems:
        raise DatasetError(str(found.problems[0]))
    return found.paths


def images_by_folder(root: Path, names: Sequence[str]) -> list[tuple[str, Path]]:
    """The images in folders of ``root`` and below them, sorted in each, with the folder's name; some may have none.

    Raises:
        DatasetError: no folder has any, or a folder cannot be listed.
    """
    found = {name: find_images([root / name]) for name in names}
    none = not any(each.paths for each in found.values())
    for name, (paths, problems) in found.items():
        if not paths:
            subfolders(root / name)  # which says so where it cannot be listed
        if problems and (paths or none):
            raise DatasetError(str(problems[0]))
    return [(name, path) for name, (paths, _) in found.items() for path in paths]


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        DatasetError: it is missing, no ordinary file, not UTF-8, or of more than 256 MiB.
    """
    try:
        return read_regular(path, _LONGEST).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); give a UTF-8 text file") from error


def size_of(path: Path) -> int:
    """The size of a file in bytes; -1 where there is none, which is said when it is read."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def file_digest(path: Path) -> str:
    """A digest of a file's bytes; of more than 256 MiB, of its size and the time of its last change.

    Raises:
        DatasetError: it is missing, or no ordinary file.
    """
    try:
        with open_regular(path) as file:
            about = os.fstat(file.fileno())
            large = about.st_size > _LONGEST
            known = f"{about.st_size} {about.st_mtime_ns}".encode() if large else file.read()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); give an ordinary file") from error
    return hashlib.sha256(known).hexdigest()


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without white space around them; errors as for `read_text`."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_class_list(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line, each once.

    Raises:
        DatasetError: the file cannot be read, has no names, or the same name twice.
    """
    names = read_lines(path)
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        found = f"has {few(twice)} more than once" if twice else "is empty"
        raise DatasetError(f"{path}: {found}; write the name of each class on a line of its own")
    return tuple(names)


def without_background(names: tuple[str, ...]) -> tuple[str, ...]:
    """A list of classes without the background that it may begin with."""
    return names[1:] if names and names[0].lower().strip("_") == "background" else names


def _some(word: str, names: Sequence[str]) -> str:
    plural = word if len(names) == 1 else f"{word}s"
    return f"{len(names) or 'no'} {plural}" + (f" ({few(names)})" if names else "")
