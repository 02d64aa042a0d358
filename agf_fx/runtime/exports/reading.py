"""What a file says of itself, read as data: nothing of the file runs."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from agf_fx.errors import ExportLoadError, MissingDependencyError
from agf_fx.runtime.exports.metadata import MEMBER, Description, described

_ADVICE = "give a file that explainer.export has written"


def read_description(path: Path) -> Description:
    """The description in an exported file.

    Raises:
        ExportLoadError: the file is missing, damaged, or no exported explainer.
        MissingDependencyError: ONNX files need the package onnx or onnxruntime.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise ExportLoadError(f"{path} cannot be read: {error.strerror or error}.") from error
    text, kind = _from_archive(path) if start == b"PK\x03\x04" else (_from_onnx(path), "onnx")
    if text is None:
        raise ExportLoadError(f"{path} is no explainer of agf-fx; {_ADVICE}.")
    try:
        description = described(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise ExportLoadError(f"{path} describes itself as nothing that can be loaded ({error}); {_ADVICE}.") from error
    if description.format != kind:
        raise ExportLoadError(f"{path} says that it is {description.format} and is {kind}; {_ADVICE}.")
    return description


def _from_archive(path: Path) -> tuple[str | None, str]:
    """The metadata in a zip archive of PyTorch, if there is any, and the archive's format."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            names = {PurePosixPath(name): name for name in archive.namelist()}
            parts = {part for name in names for part in name.parts}
            kind = "aoti" if "aotinductor" in parts else "torchscript" if "constants.pkl" in parts else "export"
            text = None if damaged else _member(archive, names, kind)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
        raise ExportLoadError(f"{path} is damaged ({error}); export it again.") from error
    if damaged:
        raise ExportLoadError(f"{path} is damaged (in {damaged}); export it again.")
    return text, kind


def _member(archive: zipfile.ZipFile, names: dict[PurePosixPath, str], kind: str) -> str | None:
    for name, stored in names.items():
        if kind == "aoti" and name.name.endswith("metadata.json"):
            own = json.loads(archive.read(stored)).get(MEMBER)
            if own is not None:
                return own
        if kind != "aoti" and name.parts[-2:] == ("extra", MEMBER):
            return archive.read(stored).decode()
    return None


def _from_onnx(path: Path) -> str | None:
    try:
        found: dict[str, Any] = _onnx_properties(path)
    except MissingDependencyError:
        raise
    except Exception:  # no protocol buffer of ONNX
        return None
    return found.get(MEMBER)


def _onnx_properties(path: Path) -> dict[str, str]:
    try:
        import onnx
    except ImportError:
        return _properties_by_runtime(path)
    model = onnx.load(path, load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def _properties_by_runtime(path: Path) -> dict[str, str]:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is no archive of PyTorch; to read ONNX files: pip install 'agf-fx[onnx]'."
        ) from error
    return onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
