"""Load a safetensors checkpoint into a model, strictly, or say exactly what does not fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from torch import nn

from agf_fx.errors import CheckpointError, ModelLoadError

_PICKLED = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar"})
_NAMED = 3  # keys named in a message


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load every parameter and buffer of ``model`` from a ``.safetensors`` file.

    Floating-point values are converted to the type of the parameter, where they fit. Weights that the model ties
    together may be stored once.

    Args:
        model: changed in place. After an error its values are undefined.
        path: the checkpoint.

    Raises:
        CheckpointError: the file is missing, empty, damaged or of another format; parameters are missing,
            left over, of another shape or of another kind of numbers; or weights are NaN, infinite, or too large for
            the type of the parameter. The first few are named.
    """
    path = Path(path)
    _check_file(path)
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        text = " ".join(str(error).split())
        raise CheckpointError(f"{path}: is damaged or not a safetensors file ({text}); copy it again") from error
    _check_values(path, stored)
    _check_shapes(path, stored, model)
    _check_kinds(path, stored, model)
    missing, unexpected = load_model(model, path, strict=False)
    _check_keys(path, sorted(missing), sorted(unexpected))


def check_finite(name: str, model: nn.Module) -> None:
    """Refuse a network whose parameters are NaN or infinite: so would be all that is said of it.

    Raises:
        ModelLoadError: the first few are named.
    """
    bad = [path for path, value in model.named_parameters() if _inexact(value) and not _finite(value.detach())]
    if bad:
        raise ModelLoadError(f"{name} has NaN or infinite weights in {_some(bad)}; use other weights")


def _check_file(path: Path) -> None:
    try:
        folder, there, regular = path.is_dir(), path.exists(), path.is_file()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be looked up ({error}); check the path") from error
    if folder:
        raise CheckpointError(f"{path}: is a folder; name the .safetensors file in it")
    if not there:
        raise CheckpointError(f"{path}: no such checkpoint; check the path")
    if not regular:
        raise CheckpointError(f"{path}: is no ordinary file; copy the checkpoint to one")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the checkpoint is empty (0 bytes); copy it again")
    if path.suffix.lower() in _PICKLED:
        target = path.with_suffix(".safetensors").name
        raise CheckpointError(
            f"{path}: is a pickle, which can run any program when loaded, and is refused; convert it once: "
            'python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{path.name}', weights_only=True), '{target}')\". A checkpoint of "
            "a training loop has the weights in a part of it, as in torch.load(...)['state_dict']; a model that was "
            "saved whole is written anew where it was made: torch.save(model.state_dict(), ...)"
        )


def _check_values(path: Path, stored: dict[str, torch.Tensor]) -> None:
    bad = [key for key, value in stored.items() if _inexact(value) and not _finite(value)]
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


def _check_kinds(path: Path, stored: dict[str, torch.Tensor], model: nn.Module) -> None:
    """Numbers of one kind are not taken for another, nor large ones for a type that cannot hold them."""
    wanted = {key: value for key, value in model.state_dict().items() if key in stored}
    other = [
        f"{key} is {_short(stored[key])}, the model has {_short(value)}"
        for key, value in wanted.items()
        if _kind(stored[key]) != _kind(value)
    ]
    if other:
        raise CheckpointError(f"{path}: other kinds of numbers: {_some(other, '; ')}. Save the trained weights")
    large = [key for key, value in wanted.items() if _inexact(value) and not _finite(stored[key].to(value.dtype))]
    if large:
        raise CheckpointError(
            f"{path}: weights in {_some(large)} are too large for {_short(wanted[large[0]])}; load them into a model "
            "of a wider type"
        )


def _inexact(value: torch.Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _finite(value: torch.Tensor) -> bool:
    try:
        return bool(value.isfinite().all())
    except NotImplementedError:  # 8-bit floats and the like
        return bool(value.float().isfinite().all())


def _kind(value: torch.Tensor) -> str:
    if value.dtype is torch.bool:
        return "truth values"
    return "real" if value.is_floating_point() else "complex" if value.is_complex() else "whole"


def _short(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


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
