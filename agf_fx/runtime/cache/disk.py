"""Compiled graphs on disk: data files, written atomically, checksummed, and shared by processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from agf_fx.atomic import atomic_write
from agf_fx.notices import warn

V = TypeVar("V")

FOLDER_VARIABLE = "AGF_FX_CACHE_DIR"
_MAGIC = b"agf-fx cache 1\n"
_SUFFIX = ".agf"
_PATIENCE = 900.0  # seconds that a process waits for another one to compile, before it does so itself


class CacheWarning(UserWarning):
    """The cache on disk cannot be used as it should; what it would have held is compiled."""


class _Damaged(Exception):
    """A file is no entry of the cache, or not the one that was asked for."""


@dataclass(frozen=True)
class Entry:
    """The content of a file: plain data, and tensors."""

    data: dict[str, Any]
    tensors: Mapping[str, Tensor]


def folder() -> Path:
    """Where the cache is: ``AGF_FX_CACHE_DIR``, or the user's cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("agf-fx", appauthor=False))


class Disk:
    """The cache in one folder; see `fetch`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.graphs, self.locks, self.inductor = root / "graphs", root / "locks", root / "inductor"

    def fetch(
        self,
        key: str,
        read: Callable[[Entry], V],
        make: Callable[[], V],
        write: Callable[[V], Entry | None],
        found: Callable[[], None] = lambda: None,
    ) -> V:
        """What is stored under ``key``, or else made and stored, by one process at a time.

        Whatever is wrong with the disk or the entry costs a warning and the making.

        Args:
            key: hexadecimal digits.
            read: from an entry's content; any exception means that the entry is damaged.
            make: the value.
            write: the value as an entry's content; None if it cannot be stored.
            found: called if ``make`` is not.
        """
        value = self._read(key, read)
        if value is not None:
            found()
            return value
        with self._locked(key):
            value = self._read(key, read)
            if value is not None:
                found()
                return value
            value = make()
            entry = write(value)
            if entry is not None:
                self._store(key, entry)
        return value

    def writable_artefacts(self) -> Path | None:
        """The folder for Inductor, or None if it cannot be written."""
        try:
            self.inductor.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None
        return self.inductor if os.access(self.inductor, os.W_OK) else None

    def _path(self, key: str) -> Path:
        return self.graphs / f"{key}{_SUFFIX}"

    def _read(self, key: str, read: Callable[[Entry], V]) -> V | None:
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _warn(self.root, f"{path} cannot be read ({error.strerror or error})")
            return None
        try:
            value = read(_unpacked(content, key))
        except Exception as error:  # whatever a damaged file leads to; nothing of it is used
            _warn(path, f"{path} is damaged ({str(error) or type(error).__name__}) and is replaced")
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # what was used last is pruned last
        return value

    def _store(self, key: str, entry: Entry) -> None:
        try:
            self.graphs.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path(key)) as file:
                file.write(_packed(entry, key))
        except OSError as error:
            _warn(self.root, f"{self.graphs} cannot be written ({error.strerror or error})")

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Hold the lock of a key; go on without it where there can be none."""
        with contextlib.ExitStack() as stack:
            try:
                self.locks.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(self.locks / f"{key}.lock", timeout=_PATIENCE))
            except Timeout:
                _warn(self.root, f"{self.locks / key}.lock has been held for {_PATIENCE:.0f} seconds")
            except (OSError, NotImplementedError) as error:
                _warn(self.root, f"{self.locks} cannot be used ({getattr(error, 'strerror', None) or error})")
            yield


def _packed(entry: Entry, key: str) -> bytes:
    text = json.dumps({"key": key, **entry.data}, allow_nan=False, separators=(",", ":"))
    graph = torch.frombuffer(bytearray(zlib.compress(text.encode())), dtype=torch.uint8)
    tensors = {f"tensor.{name}": tensor.detach().cpu().contiguous().clone() for name, tensor in entry.tensors.items()}
    payload = safetensors.torch.save({"data": graph, **tensors})
    return b"".join((_MAGIC, hashlib.sha256(payload).hexdigest().encode(), b"\n", payload))


def _unpacked(content: bytes, key: str) -> Entry:
    start = len(_MAGIC)
    if content[:start] != _MAGIC:
        raise _Damaged("it is of another version, or no entry")
    checksum, payload = content[start : start + 64], content[start + 65 :]
    if hashlib.sha256(payload).hexdigest().encode() != checksum:
        raise _Damaged("its checksum is wrong")
    tensors = safetensors.torch.load(payload)
    data = json.loads(zlib.decompress(tensors.pop("data").numpy().tobytes()))
    if data.pop("key") != key:
        raise _Damaged("it belongs to another key")
    return Entry(data, {name.removeprefix("tensor."): tensor for name, tensor in tensors.items()})


_WARNED: set[str] = set()


def _warn(where: Path, problem: str) -> None:
    """Warn, once for each place in this process."""
    if str(where) in _WARNED:
        return
    _WARNED.add(str(where))
    warn(
        f"{problem}. Compiled graphs are made anew. {FOLDER_VARIABLE} names another folder; "
        'CompileOptions(cache="memory") uses none.',
        CacheWarning,
    )


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
    sizes = [size for _, size, _ in _files(disk.graphs)]
    return Usage(disk.root, len(sizes), sum(sizes), sum(size for _, size, _ in _files(disk.inductor)))


def clear(disk: Disk) -> Usage:
    """Remove everything that the cache has written, and say what it was; other files of the folder stay.

    Raises:
        OSError: something cannot be removed.
    """
    before = usage(disk)
    for part in (disk.graphs, disk.inductor, disk.locks):
        if part.exists():
            shutil.rmtree(part)
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
    units = [(path, size, used) for path, size, used in _files(disk.graphs)]
    kernels = _files(disk.inductor)  # they belong together, in ways that Inductor knows
    if kernels:
        units.append((disk.inductor, sum(size for _, size, _ in kernels), max(used for *_, used in kernels)))
    total, removed, now = sum(size for _, size, _ in units), 0, time.time()
    for path, size, used in sorted(units, key=lambda unit: unit[2]):
        large = max_bytes is not None and total - removed > max_bytes
        old = older_than is not None and now - used > older_than
        if large or old:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            removed += size
    return removed


def _files(part: Path) -> list[tuple[Path, int, float]]:
    """Path, bytes and time of last use of every file below a folder."""
    found = []
    for path in part.rglob("*") if part.exists() else ():
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                status = path.stat()
                found.append((path, status.st_size, max(status.st_mtime, status.st_atime)))
    return found
