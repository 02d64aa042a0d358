"""The formats by name, and writing a file in one of them."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

from agf_fx.atomic import atomic_path
from agf_fx.errors import ExportError
from agf_fx.options import require_one_of
from agf_fx.runtime.exports.standalone import Standalone

# Format -> its module; each is imported when it is used, with the packages that it needs.
_MODULES = {
    "torchscript": "agf_fx.runtime.exports.torchscript",
    "export": "agf_fx.runtime.exports.exported_program",
    "aoti": "agf_fx.runtime.exports.aoti",
    "onnx": "agf_fx.runtime.exports.onnx",
}
FORMATS = tuple(_MODULES)


# Endings that say what a file is, and the formats that may have them, the usual one first.
_ENDINGS = {".pt": ("torchscript",), ".pt2": ("export", "aoti"), ".onnx": ("onnx",)}


def format_of(path: str | os.PathLike[str], format: str | None) -> str:
    """The format of a file: as it is asked for, or else as the name's ending says; TorchScript for other endings.

    Raises:
        ExportError: an unknown format, listing those there are; or one that the ending contradicts.
    """
    usual = _ENDINGS.get(Path(path).suffix.lower())
    if format is None:
        return usual[0] if usual else "torchscript"
    try:
        require_one_of("format", format, FORMATS)
    except ValueError as error:
        raise ExportError(str(error)) from error
    if usual and format not in usual:
        raise ExportError(
            f"{os.fspath(path)} is to be {format}, and its ending is that of {' or '.join(usual)}; leave the format "
            "out, or give the file another ending."
        )
    return format


def write(explainer: Standalone, metadata: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a file; it appears whole or not at all.

    Args:
        explainer: what to write; its graph is used up.
        metadata: from `agf_fx.runtime.exports.metadata.metadata`; its ``"format"`` decides.
        path: the file.

    Raises:
        ExportError: the file cannot be written, or the format cannot express the explainer.
        MissingDependencyError: a package that the format needs is not installed.
    """
    module = importlib.import_module(_MODULES[metadata["format"]])
    try:
        with atomic_path(path) as part:
            module.write(explainer, json.dumps(metadata, indent=1), part)
    except OSError as error:
        raise ExportError(f"{os.fspath(path)} cannot be written: {error.strerror or error}.") from error
