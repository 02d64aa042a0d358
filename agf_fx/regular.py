"""Files read with care: regular ones only, and no more of them than expected."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO


class NotRegular(OSError):
    """A folder, a device or a pipe stands in the place of a file; or a link, where none is followed."""


@contextmanager
def open_regular(path: str | os.PathLike[str], *, follow_links: bool = True) -> Iterator[IO[bytes]]:
    """Open an ordinary file for reading; nothing else is waited for or read.

    Args:
        path: the file.
        follow_links: whether ``path`` itself may be a symbolic link.

    Raises:
        NotRegular: ``path`` is no ordinary file.
        OSError: the file cannot be opened.
        ValueError: ``path`` holds a NUL.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    if not follow_links:
        if os.path.islink(path):
            raise NotRegular("it is a link")
        flags |= getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(path, flags)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotRegular("it is no ordinary file")
        yield file


def read_regular(path: str | os.PathLike[str], most_bytes: int, *, follow_links: bool = True) -> bytes:
    """The content of an ordinary file of ``most_bytes`` at most; errors as for `open_regular`.

    Raises:
        NotRegular: it is larger, too.
    """
    with open_regular(path, follow_links=follow_links) as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise NotRegular(f"it is larger than {most_bytes:,} bytes")
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise NotRegular(f"it is larger than {most_bytes:,} bytes")
    return content
