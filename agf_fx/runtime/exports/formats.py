"""The formats by name, and writing a file in one of them."""

from __future__ import annotations

import importlib
import json
import os
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


def check_format(format: str) -> None:
    """Raise an ExportError that lists the formats, unless ``format`` is one."""
    try:
        require_one_of("format", format, FORMATS)
    except ValueError as error:
        raise ExportError(str(error)) from error


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
