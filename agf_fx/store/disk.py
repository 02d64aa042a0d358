"""Compiled graphs on disk: data files, written atomically, signed, and shared by the user's processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from agf_fx.atomic import atomic_write
from agf_fx.notices import warn
from agf_fx.regular import read_regular
from agf_fx.store.entries import MOST_BYTES, Entry, packed, unpacked
from agf_fx.store.folders import FOLDER_VARIABLE, folder, made, secret, tagged, trusted

__all__ = ["CacheWarning", "Disk", "Entry", "folder"]

V = TypeVar("V")

SUFFIX = ".agf"
_PATIENCE = 900.0  # seconds that a process waits for another one to compile, before it does so itself


class CacheWarning(UserWarning):
    """The cache on disk cannot be used as it should; what it would have held is compiled."""


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
        """The folder for Inductor, or None if it cannot be written, or could be by others: what lies there is run."""
        try:
            tagged(self.inductor)
        except OSError:
            return None
        return self.inductor if os.access(self.inductor, os.W_OK) else None

    def _path(self, key: str) -> Path:
        return self.graphs / f"{key}{SUFFIX}"

    def _read(self, key: str, read: Callable[[Entry], V]) -> V | None:
        path = self._path(key)
        try:
            trusted(self.graphs)
            content = read_regular(path, MOST_BYTES, follow_links=False)
            signed_with = secret(self.root)
        except FileNotFoundError:
            return None
        except OSError as error:
            _warn(self.root, f"{path} cannot be read ({error.strerror or error})")
            return None
        try:
            value = read(unpacked(content, key, signed_with))
        except Exception as error:  # whatever a damaged file leads to, no memory included; nothing of it is used
            _warn(path, f"{path} is damaged ({str(error)[:300] or type(error).__name__}) and is replaced")
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path, follow_symlinks=False)  # what was used last is pruned last
        return value

    def _store(self, key: str, entry: Entry) -> None:
        path = self._path(key)
        try:
            made(self.graphs)
            content = packed(entry, key, secret(self.root))
            if content is None:
                return
            if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
                path.unlink()  # a link is not followed, a pipe not waited for
            with atomic_write(path) as file:
                file.write(content)
        except OSError as error:
            _warn(self.root, f"{self.graphs} cannot be written ({error.strerror or error})")

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Hold the lock of a key; go on without it where there can be none."""
        with contextlib.ExitStack() as stack:
            path = self.locks / f"{key}.lock"
            try:
                made(self.locks)
                if path.is_symlink():
                    path.unlink()
                stack.enter_context(FileLock(path, timeout=_PATIENCE))
            except Timeout:
                _warn(self.root, f"{path} has been held for {_PATIENCE:.0f} seconds")
            except (OSError, NotImplementedError) as error:
                _warn(self.root, f"{self.locks} cannot be used ({getattr(error, 'strerror', None) or error})")
            yield


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
