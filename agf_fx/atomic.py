"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that takes its place at ``path`` only when the block ends without an error.

    The bytes go to a temporary file in the same folder, which is flushed to disk and then moved over
    ``path`` with `os.replace`. After an error (an interrupt included) ``path`` is as it was before and
    the temporary file is gone. A symbolic link is followed: the file it points to is replaced.

    Args:
        path: the file to write; its folder exists already.

    Yields:
        The temporary file, open for writing bytes.

    Raises:
        OSError: the folder is missing or not writable, the disk is full, or ``path`` is something that
            must not be replaced by a file (a folder, a device).
    """
    with atomic_path(path) as part, open(part, "wb") as file:
        yield file


@contextmanager
def atomic_path(path: str | os.PathLike[str], suffix: str = "") -> Iterator[Path]:
    """The same for writers that want a name: what they leave there takes its place at ``path``.

    Args:
        path: the file to write; its folder exists already.
        suffix: how the temporary name ends, for writers that ask for a certain ending.

    Yields:
        The path of an empty temporary file in the same folder, to be written over.

    Raises:
        OSError: as in `atomic_write`.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(f"{target}: is not an ordinary file and will not be replaced; choose another name")
    try:
        handle, name = tempfile.mkstemp(prefix=".agf-fx-", suffix=suffix or ".part", dir=target.parent)
    except OSError as error:
        reason = (
            f"{target}: no file can be written in {target.parent} ({error.strerror}); name another folder, or make it"
        )
        raise type(error)(error.errno, reason) from error
    try:
        os.close(handle)
        yield Path(name)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, _mode_of(target))
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def save_image(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Write ``image`` to ``path`` as PNG, whole or not at all (`OSError` as in `atomic_write`)."""
    with atomic_write(path) as file:
        image.save(file, format="PNG")


def save_array(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write ``array`` to ``path`` in NumPy's ``.npy`` format, whole or not at all (`OSError` as above)."""
    import numpy as np

    with atomic_write(path) as file:
        np.save(file, array, allow_pickle=False)


def save_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` to ``path`` as indented UTF-8 JSON, whole or not at all (`OSError` as above).

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "surrogateescape") + b"\n")


def _mode_of(target: Path) -> int:
    """Permission bits for ``target``: those it has, else what the process's umask leaves of ``rw-rw-rw-``."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
