"""Tensors of one kind in a ``.safetensors`` file, with words on them: written whole or not at all, read with care."""

from __future__ import annotations

import os
from collections.abc import Mapping

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from agf_fx.atomic import atomic_path
from agf_fx.errors import CheckpointError, ExportError


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write a file, which appears whole or not at all.

    Args:
        path: of the file.
        tensors: by name.
        about: ``kind`` and ``layout``, which `read_tensors` asks for, and what else is to be known.

    Raises:
        ExportError: it cannot be written.
    """
    try:
        with atomic_path(path) as part:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part, dict(about))
    except OSError as error:
        raise ExportError(f"{os.fspath(path)} cannot be written: {error.strerror or error}.") from error


def read_tensors(
    path: str | os.PathLike[str], kind: str, layout: str, *, what: str, advice: str
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What is known of the tensors, and these by name.

    Args:
        path: of a file that `write_tensors` has written.
        kind: what it must be.
        layout: in which version.
        what: it holds, for messages: "patterns".
        advice: what else to do, for messages.

    Raises:
        CheckpointError: it is missing, damaged, or holds something else.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise CheckpointError(f"{name}: no such file of {what}; check the path, or {advice}.")
    try:
        with safe_open(name, "pt") as file:
            about, stored = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{name}: is damaged or no .safetensors file ({error}); copy it again.") from error
    if about.get("kind") != kind or about.get("layout") != layout:
        raise CheckpointError(f"{name}: holds no {what} that this version of agf-fx knows; {advice}.")
    return about, stored
