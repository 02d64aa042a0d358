"""Load a safetensors checkpoint into a model, strictly, or say exactly what does not fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from torch import nn

from agf_fx.errors import CheckpointError

_PICKLED = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar"})
_NAMED = 3  # keys named in a message


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load every parameter and buffer of ``model`` from a ``.safetensors`` file.

    Floating-point values are converted to the type of the parameter. Weights that the model ties together may be
    stored once.

    Args:
        model: changed in place. After an error its values are undefined.
        path: the checkpoint.

    Raises:
        CheckpointError: the file is missing, empty, damaged or of another format; parameters are missing,
            left over or of another shape; or weights are NaN or infinite. The first few are named.
    """
    path = Path(path)
    _check_file(path)
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        text = " ".join(str(error).split())
        raise CheckpointError(f"{path}: is damaged or not a safetensors file ({text}); copy it again") from error
    _check_values(path, stored)
    _check_shapes(path, stored, model)
    missing, unexpected = load_model(model, path, strict=False)
    _check_keys(path, sorted(missing), sorted(unexpected))


def _check_file(path: Path) -> None:
    if path.suffix.lower() in _PICKLED:
        target = path.with_suffix(".safetensors").name
        raise CheckpointError(
            f"{path}: is a pickle, which can run any program when loaded, and is refused; convert it once: "
            'python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{path.name}', weights_only=True), '{target}')\""
        )
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name the .safetensors file in it")
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint; check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the checkpoint is empty (0 bytes); copy it again")


def _check_values(path: Path, stored: dict[str, torch.Tensor]) -> None:
    bad = [key for key, value in stored.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise CheckpointError(f"{path}: NaN or infinite weights in {_some(bad)}; use another checkpoint")


def _check_shapes(path: Path, stored: dict[str, torch.Tensor], model: nn.Module) -> None:
    wanted = model.state_dict()
    shapes = ((key, tuple(stored[key].shape), tuple(wanted[key].shape)) for key in wanted if key in stored)
    wrong = [f"{key} is {has}, the model has {needs}" for key, has, needs in shapes if has != needs]
    if wrong:
        raise CheckpointError(
            f"{path}: shapes do not fit: {_some(wrong, '; ')}. Build the model as it was trained "
            "(same architecture and number of classes)"
        )


def _check_keys(path: Path, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    if not missing and not unexpected:
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing from it ({_some(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unknown to the model ({_some(unexpected)})")
    advice = "use the checkpoint of this architecture"
    prefix = unexpected[0].partition(".")[0] if unexpected else ""
    if missing and {f"{prefix}.{key}" for key in missing} <= set(unexpected):
        advice = f"every name starts with '{prefix}.': save the state_dict without that prefix"
    raise CheckpointError(f"{path}: parameters do not match: {', '.join(parts)}; {advice}")


def _some(items: Sequence[str], separator: str = ", ") -> str:
    text = separator.join(items[:_NAMED])
    return f"{text}{separator}and {len(items) - _NAMED} more" if len(items) > _NAMED else text
