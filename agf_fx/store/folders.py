"""The folders of the cache, and the key that signs its entries: the user's own, and nobody else's."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from agf_fx.errors import OptionsError
from agf_fx.regular import open_regular

FOLDER_VARIABLE = "AGF_FX_CACHE_DIR"
TAG = "CACHEDIR.TAG"
_TAG_TEXT = b"Signature: 8a477f597d28d172789f06886806bc55\n# This folder was made by agf-fx.\n"
_SECRET_BYTES = 32


class Foreign(OSError):
    """A folder or a file of the cache is a link, belongs to somebody else, or can be written by others."""


def folder() -> Path:
    """Where the cache is: ``AGF_FX_CACHE_DIR``, or the user's cache folder.

    Raises:
        OptionsError: ``AGF_FX_CACHE_DIR`` begins with ``~`` and there is no such user.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if not named:
        import platformdirs

        return Path(platformdirs.user_cache_dir("agf-fx", appauthor=False))
    try:
        return Path(named).expanduser()
    except RuntimeError as error:
        raise OptionsError(f"{FOLDER_VARIABLE} is {named!r}: no such home folder; name another.") from error


def made(path: Path) -> Path:
    """A folder of the cache, made for the user alone where it is missing.

    Raises:
        Foreign: there is something else, or a folder that others can write into.
        OSError: it cannot be made.
    """
    for parent in (*reversed(path.parents), path):
        if not parent.exists():
            with contextlib.suppress(FileExistsError):
                parent.mkdir(mode=0o700)
    return trusted(path)


def trusted(path: Path) -> Path:
    """A folder of the cache that only the user, or the administrator, can write into.

    Raises:
        Foreign: it is another kind of folder.
        OSError: there is none.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise Foreign("it is a link")
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError("Not a directory")
    if not _own(status):
        raise Foreign("it belongs to another user")
    if os.name == "posix" and status.st_mode & 0o022:
        path.chmod(0o700)  # as it is made today
    return path


def tagged(path: Path) -> Path:
    """A folder as in `made` that holds a sign of agf-fx: what is in it may be removed.

    Raises:
        Foreign: there is a folder without it.
        OSError: it cannot be made.
    """
    if not path.exists():
        made(path)
        (path / TAG).write_bytes(_TAG_TEXT)
    if not is_tagged(path):
        raise Foreign("agf-fx has not made it")
    return trusted(path)


def is_tagged(path: Path) -> bool:
    """Whether agf-fx has made a folder."""
    tag = path / TAG
    return not path.is_symlink() and tag.is_file() and not tag.is_symlink()


def secret(root: Path) -> bytes:
    """The key that signs the entries below ``root``: of the user alone, made when it is missing.

    Raises:
        Foreign: the file of the key is somebody else's.
        OSError: it can be neither read nor made.
    """
    path = root / "key"
    try:
        return _read_secret(path)
    except FileNotFoundError:
        pass
    handle, name = tempfile.mkstemp(prefix=".agf-fx-", dir=made_root(root))  # for the user alone
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
        try:
            os.link(name, path)  # the first of several processes wins
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    return _read_secret(path)


def made_root(root: Path) -> Path:
    """The folder of the whole cache, made where it is missing; it may be a link, and have been made by the user."""
    if not root.exists():
        made(root)
    return root


def _read_secret(path: Path) -> bytes:
    with open_regular(path, follow_links=False) as file:
        status = os.fstat(file.fileno())
        if not _own(status) or (os.name == "posix" and status.st_mode & 0o022):
            raise Foreign("the key of the cache belongs to somebody else")
        found = file.read(_SECRET_BYTES + 1)
    if len(found) != _SECRET_BYTES:
        raise Foreign("the key of the cache is damaged")
    return found


def _own(status: os.stat_result) -> bool:
    return os.name != "posix" or status.st_uid in (os.geteuid(), 0)
