"""The formats by name, and writing a file in one of them."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from agf_fx.atomic import atomic_path
from agf_fx.errors import AgfFxError, ExportError
from agf_fx.exports.standalone import Standalone
from agf_fx.options import require_one_of


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        writer: what has ``write(explainer, metadata, path)``: a module, or its name, which is imported when it is used,
            with the packages that it needs.
        endings: of files, where they say what a file is; of formats with one ending, the first is the usual one.
    """

    writer: Any
    endings: tuple[str, ...]


FORMATS: dict[str, Format] = {
    "torchscript": Format("agf_fx.exports.torchscript", (".pt", ".pth", ".ts", ".jit", ".torchscript")),
    "export": Format("agf_fx.exports.exported_program", (".pt2",)),
    "aoti": Format("agf_fx.exports.aoti", (".pt2",)),
    "onnx": Format("agf_fx.exports.onnx", (".onnx",)),
}
"""The formats by name."""


def format_of(path: str | os.PathLike[str], format: str | None) -> str:
    """The format of a file: as it is asked for, or else as the name's ending says; TorchScript for a name without one.

    Raises:
        ExportError: an unknown format, listing those there are; one that the ending contradicts; or no format and an
            ending that says none.
    """
    ending = Path(path).suffix.lower()
    usual = [name for name, known in FORMATS.items() if ending in known.endings]
    if format is None:
        if ending and not usual:
            endings = dict.fromkeys(known.endings[0] for known in FORMATS.values())
            raise ExportError(
                f"{os.fspath(path)}: the ending {ending} says no format; say which ({', '.join(FORMATS)}), or end the "
                f"name in {', '.join(endings)}."
            )
        return usual[0] if usual else "torchscript"
    try:
        require_one_of("format", format, tuple(FORMATS))
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
        metadata: from `agf_fx.exports.metadata.metadata`; its ``"format"`` decides.
        path: the file.

    Raises:
        ExportError: the file cannot be written, or the format cannot express the explainer.
        MissingDependencyError: a package that the format needs is not installed.
    """
    writer = FORMATS[metadata["format"]].writer
    module = importlib.import_module(writer) if isinstance(writer, str) else writer
    try:
        with atomic_path(path) as part:
            module.write(explainer, json.dumps(metadata, indent=1), part)
    except OSError as error:
        raise ExportError(f"{os.fspath(path)} cannot be written: {error.strerror or error}.") from error
    except AgfFxError:
        raise
    except (RuntimeError, AssertionError) as error:  # PyTorch's own limits
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ExportError(
            f"PyTorch cannot write this explainer as {metadata['format']} ({reason}). Choose another format of "
            f"{', '.join(FORMATS)}."
        ) from error
