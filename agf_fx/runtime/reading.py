"""What a file says of itself, read as data: nothing of the file runs."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any

from agf_fx.errors import ExportLoadError
from agf_fx.exports.metadata import MEMBER, Description, described
from agf_fx.exports.onnx.sealing import Unsealed, metadata_behind
from agf_fx.regular import open_regular

_ADVICE = "give a file that explainer.export has written"
_LONGEST = 64 * 2**20  # of a member that is read whole
_MOST_COMPRESSED = 400  # times: graphs and machine code shrink to a tenth
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    MemoryError,
)


def read_description(path: Path) -> Description:
    """The description in an exported file.

    Raises:
        ExportLoadError: the file is missing, damaged, or no exported explainer.
    """
    try:
        with open_regular(path) as file:
            text, kind = _from_archive(file) if file.read(4) == b"PK\x03\x04" else (_from_onnx(file), "onnx")
    except Unsealed as error:
        raise ExportLoadError(f"{path} is damaged ({error}); export it again.") from error
    except _Damaged as error:
        raise ExportLoadError(f"{path} is damaged ({error}); export it again.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExportLoadError(f"{str(path)!r} cannot be read: {reason}.") from error
    if text is None:
        raise ExportLoadError(f"{path} is no explainer of agf-fx; {_ADVICE}.")
    try:
        description = described(json.loads(text))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportLoadError(
            f"{path} describes itself as nothing that can be loaded ({reason}); {_ADVICE}."
        ) from error
    if description.format != kind:
        raise ExportLoadError(f"{path} says that it is {description.format[:40]} and is {kind}; {_ADVICE}.")
    return description


class _Damaged(Exception):
    """An archive cannot be read to its end."""


def _from_onnx(file: IO[bytes]) -> str | None:
    file.seek(0)
    return metadata_behind(file, os.fstat(file.fileno()).st_size)


def _from_archive(file: IO[bytes]) -> tuple[str | None, str]:
    """The metadata in a zip archive of PyTorch, if there is any, and the archive's format."""
    try:
        with zipfile.ZipFile(file) as archive:
            _check_sizes(archive, os.fstat(file.fileno()).st_size)
            names = {PurePosixPath(name): name for name in archive.namelist()}
            parts = {part for name in names for part in name.parts}
            kind = "aoti" if "aotinductor" in parts else "torchscript" if "constants.pkl" in parts else "export"
            text = _member(archive, names, kind)
            damaged = text is not None and archive.testzip()
    except _DAMAGED as error:  # of an encrypted member, too
        raise _Damaged(" ".join(str(error).split())[:300] or type(error).__name__) from error
    if damaged:
        raise _Damaged(f"in {damaged[:100]!r}")
    return text, kind


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse archives that would grow beyond all measure, those with members inside each other included."""
    members = archive.infolist()
    grown = sum(member.file_size for member in members) > _MOST_COMPRESSED * size
    if grown or any(member.file_size > _MOST_COMPRESSED * member.compress_size + 2**20 for member in members):
        raise _Damaged("it says that it holds far more than its size")


def _member(archive: zipfile.ZipFile, names: dict[PurePosixPath, str], kind: str) -> str | None:
    for name, stored in names.items():
        if kind == "aoti" and name.name.endswith("metadata.json"):
            content = _parsed(_read(archive, stored))
            own = content.get(MEMBER) if isinstance(content, dict) else None
            if isinstance(own, str):
                return own
        if kind != "aoti" and name.parts[-2:] == ("extra", MEMBER):
            return _read(archive, stored).decode()
    return None


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _LONGEST:
        raise _Damaged(f"its metadata is longer than {_LONGEST} bytes")
    return archive.read(name)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except RecursionError as error:
        raise _Damaged("its metadata is nested too deeply") from error
