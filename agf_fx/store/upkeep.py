"""How much the cache on disk holds, and less of it. Only what agf-fx has written is counted and removed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agf_fx.store.disk import SUFFIX, Disk
from agf_fx.store.folders import TAG, is_tagged

_INDUCTOR_NAMES = re.compile(r"[a-z0-9]{2}|aotautograd|fxgraph|locks|triton")  # of its folders
_OWN_NAMES = re.compile(rf"[0-9a-f]{{64}}({re.escape(SUFFIX)}|\.lock)|\.agf-fx-\w+(\.part)?")


@dataclass(frozen=True)
class Usage:
    """What a cache holds.

    Attributes:
        folder: where.
        graphs: number of canonical and explanation graphs.
        graph_bytes: their size.
        inductor_bytes: size of what Inductor has compiled.
    """

    folder: Path
    graphs: int
    graph_bytes: int
    inductor_bytes: int


def usage(disk: Disk) -> Usage:
    """What is stored."""
    sizes = [size for _, size, _ in _own_files(disk.graphs)]
    return Usage(disk.root, len(sizes), sum(sizes), sum(size for _, size, _ in _artefacts(disk)))


def clear(disk: Disk) -> Usage:
    """Remove everything that the cache has written, and say what it was; other files of the folder stay.

    Raises:
        OSError: something cannot be removed.
    """
    before = usage(disk)
    for part in (disk.graphs, disk.locks):
        for path, _, _ in _own_files(part):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the user keeps something there
            part.rmdir()
    _remove_artefacts(disk)
    return before


def prune(disk: Disk, *, max_bytes: int | None = None, older_than: float | None = None) -> int:
    """Remove what has not been used for longest.

    Args:
        disk: the cache.
        max_bytes: how much may stay.
        older_than: seconds since the last use after which a file goes.

    Returns:
        Bytes removed.

    Raises:
        OSError: something cannot be removed.
    """
    units = list(_own_files(disk.graphs))
    kernels = list(_artefacts(disk))  # they belong together, in ways that Inductor knows
    if kernels:
        units.append((disk.inductor, sum(size for _, size, _ in kernels), max(used for *_, used in kernels)))
    total, removed, now = sum(size for _, size, _ in units), 0, time.time()
    for path, size, used in sorted(units, key=lambda unit: unit[2]):
        large = max_bytes is not None and total - removed > max_bytes
        old = older_than is not None and now - used > older_than
        if large or old:
            _remove_artefacts(disk) if path == disk.inductor else path.unlink(missing_ok=True)
            removed += size
    return removed


def _own_files(part: Path) -> Iterator[tuple[Path, int, float]]:
    """Path, bytes and time of last use of the cache's own files in a folder; links are not followed."""
    if part.is_symlink() or not part.is_dir():
        return
    with os.scandir(part) as found:
        for entry in list(found):
            if _OWN_NAMES.fullmatch(entry.name):
                yield from _measured(Path(entry.path))


def _artefacts(disk: Disk) -> Iterator[tuple[Path, int, float]]:
    """The same for what Inductor keeps, in the folder that agf-fx has made for it."""
    for folder in _artefact_folders(disk):
        for parent, _, names in os.walk(folder):
            for name in names:
                yield from _measured(Path(parent, name))


def _artefact_folders(disk: Disk) -> list[Path]:
    if not is_tagged(disk.inductor):
        return []
    with os.scandir(disk.inductor) as found:
        return [
            Path(entry.path)
            for entry in found
            if entry.is_dir(follow_symlinks=False) and _INDUCTOR_NAMES.fullmatch(entry.name)
        ]


def _measured(path: Path) -> Iterator[tuple[Path, int, float]]:
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            yield path, status.st_size, max(status.st_mtime, status.st_atime)


def _remove_artefacts(disk: Disk) -> None:
    for folder in _artefact_folders(disk):
        shutil.rmtree(folder)
    if is_tagged(disk.inductor) and os.listdir(disk.inductor) == [TAG]:
        shutil.rmtree(disk.inductor)
