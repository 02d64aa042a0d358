"""The folder that a command writes to, looked at before any other work."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def writable_folder(folder: Path) -> Iterator[None]:
    """Make a folder where it is missing, and see that it takes files.

    Folders made here in which nothing was written are gone afterwards.

    Raises:
        OSError: the folder cannot be made, or takes no files.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"{folder}: the folder cannot be made ({reason}); name another one") from error
        check_writable(folder)
        yield
    finally:
        for path in missing:
            with suppress(OSError):  # it is not empty, or was never made
                path.rmdir()


def check_writable(folder: Path) -> None:
    """See that a folder takes files.

    Raises:
        OSError: it does not, or is not there.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{folder}: files cannot be written there ({reason}); name another folder") from error
