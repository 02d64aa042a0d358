"""Exported explainers read back: `agf_fx.load`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from agf_fx.ambient import check_concrete, shielded, without_tf32
from agf_fx.errors import ExportLoadError, InputError, MissingDependencyError, PicklingError
from agf_fx.exports.metadata import Description
from agf_fx.notices import warn
from agf_fx.rules.targets import explained_classes
from agf_fx.runtime.degenerate import warn_of_degenerate
from agf_fx.runtime.explanation import Explanation
from agf_fx.runtime.inputs import check_pixels, maps_as_asked, requested_targets
from agf_fx.runtime.reading import read_description

Run = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class VersionWarning(UserWarning):
    """A file was written with another version of PyTorch."""


@shielded()
@without_tf32()
def load(path: str | os.PathLike[str], *, fingerprint: str | None = None) -> ExportedExplainer:
    """Load a file that `agf_fx.Explainer.export` has written, in any format.

    What the file says of itself is read first, as data, and checked before anything in it can run. Loading then hands
    it to PyTorch or ONNX Runtime: a TorchScript, ``.pt2`` or AOTInductor file can run code of whoever wrote it, so
    load such files from those you trust only.

    Args:
        path: the file.
        fingerprint: of the explainer that is expected, `agf_fx.Explainer.fingerprint`; None accepts any.

    Raises:
        ExportLoadError: the file is missing, damaged, no explainer, of another fingerprint than expected, or compiled
            for another version of PyTorch or another kind of device.
        MissingDependencyError: ONNX files need the package onnxruntime.
    """
    path = Path(os.fspath(path))
    description = read_description(path)
    if fingerprint is not None and fingerprint != description.fingerprint:
        raise ExportLoadError(
            f"{path} holds an explainer of {description.model} with the fingerprint {description.fingerprint[:12]}…, "
            f"not {fingerprint[:12]}…: architecture, image size, method, options or versions differ. Export it again."
        )
    _check_versions(path, description)
    return ExportedExplainer(_LOADERS[description.format](path), description)


class ExportedExplainer:
    """An explainer from a file: like `agf_fx.Explainer`, for one image size, with the weights of its export.

    Attributes:
        description: what the file says of itself: method, options, class names, preprocessing, versions, fingerprint.
    """

    def __init__(self, run: Run, description: Description) -> None:
        self._run = run
        self.description = description

    def __call__(self, images: Tensor, target: int | Sequence[int] | Tensor | None = None) -> Tensor:
        """Heat maps of a batch: (N, H, W), or (N, K, H, W) for targets (N, K); see `agf_fx.Explainer.__call__`."""
        return maps_as_asked(self.explain(images, target).maps, target)

    def explain(
        self, images: Tensor, target: int | Sequence[int] | Tensor | None = None, *, top_k: int | None = None
    ) -> Explanation:
        """Explain a batch; arguments, result and errors as for `agf_fx.Explainer.explain`.

        Args:
            images: (N, C, H, W) of the size, dtype and device of the file.
            target: classes, as there.
            top_k: explain the k highest-scoring classes of each image instead; excludes ``target``.

        Raises:
            InputError, NonFiniteInputError, TargetError: bad images or targets.
            ExportLoadError: the file cannot be run.
        """
        with shielded(), without_tf32(self.description.options.get("precision") != "tf32"):
            return self._explain(images, target, top_k)

    def _explain(self, images: Tensor, target: int | Sequence[int] | Tensor | None, top_k: int | None) -> Explanation:
        self._check(images)
        codes = requested_targets(target, top_k, images, self.description.classes, self.description.positions)
        maps, logits = self._results(images, codes)
        warn_of_degenerate(maps, logits)
        return Explanation(maps, explained_classes(logits, codes), logits, images)

    def _results(self, images: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Maps and logits, if they are such.

        Raises:
            ExportLoadError: the file cannot be run, or gives something else.
        """
        wanted = self.description
        try:
            results = self._run(images.contiguous(), codes.contiguous())  # machine code reads them as they lie
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever PyTorch or ONNX Runtime raises while it runs a foreign graph
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ExportLoadError(
                f"{self!r} cannot be run on {len(images)} images ({reason}); give fewer images, or export it again."
            ) from error
        shape = (len(images), wanted.classes, *wanted.positions)
        pair = isinstance(results, tuple | list) and len(results) == 2 and all(isinstance(x, Tensor) for x in results)
        if not pair or results[0].shape[:2] != codes.shape[:2] or results[1].shape != shape:
            raise ExportLoadError(f"{self!r} gives other results than it says; export it again.")
        return results[0], results[1]

    def _check(self, images: Tensor) -> None:
        wanted = self.description
        check_concrete(images)
        shape = tuple(images.shape[1:]) if isinstance(images, Tensor) else None
        if shape != wanted.image_shape or images.dtype != wanted.dtype or images.device.type != wanted.device:
            given = type(images).__name__
            if shape is not None:
                given = f"{images.dtype} {tuple(images.shape)} on {images.device}"
            sizes = ", ".join(map(str, wanted.image_shape))
            raise InputError(
                f"this explainer takes {wanted.dtype} images of shape (N, {sizes}) on {wanted.device}, and was given "
                f"{given}. Convert them, or export an explainer for them."
            )
        check_pixels(images)

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.description.method

    @property
    def fingerprint(self) -> str:
        """See `agf_fx.Explainer.fingerprint`."""
        return self.description.fingerprint

    def __reduce__(self) -> NoReturn:
        raise PicklingError("an exported explainer is not pickled; send its file, and call agf_fx.load there.")

    def __repr__(self) -> str:
        size = "x".join(map(str, self.description.image_shape))
        return f"ExportedExplainer({self.description.model}, method={self.method!r}, {self.description.format}, {size})"


def _check_versions(path: Path, description: Description) -> None:
    """Machine code fits one version of PyTorch; graphs fit others too, as far as PyTorch keeps them compatible."""
    written, here = description.versions.get("torch", "unknown"), torch.__version__
    if _minor(written) == _minor(here):
        return
    if description.format == "aoti":
        raise ExportLoadError(
            f"{path} is compiled for torch {written}, and this is torch {here}; export it again with this version."
        )
    if description.format != "onnx":
        warn(f"{path} was written with torch {written}, and this is torch {here}.", VersionWarning)


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split("+")[0].split(".")[:2])


def _load_torchscript(path: Path) -> Run:
    from agf_fx.exports.torchscript import deprecation_silenced

    with deprecation_silenced():
        return torch.jit.load(path)


def _load_program(path: Path) -> Run:
    with open(path, "rb") as file:  # a name would have to end in .pt2
        return torch.export.load(file).module()


def _load_package(path: Path) -> Run:
    if path.suffix == ".pt2":
        return torch._inductor.aoti_load_package(str(path))
    with open(path, "rb") as file:  # other names are refused
        return torch._inductor.aoti_load_package(file)


def _load_onnx(path: Path) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("ONNX files need onnxruntime: pip install 'agf-fx[onnx]'.") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        maps, logits = session.run(["maps", "logits"], {"images": images.numpy(), "target": target.numpy()})
        return torch.from_numpy(maps), torch.from_numpy(logits)

    return run


def _guarded(loader: Callable[[Path], Run]) -> Callable[[Path], Run]:
    """Whatever a reader of PyTorch or ONNX Runtime raises, in our words."""

    def guarded(path: Path) -> Run:
        try:
            return loader(path)
        except MissingDependencyError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ExportLoadError(f"{path} cannot be loaded ({reason}); export it again.") from error

    return guarded


_LOADERS: dict[str, Callable[[Path], Run]] = {
    "torchscript": _guarded(_load_torchscript),
    "export": _guarded(_load_program),
    "aoti": _guarded(_load_package),
    "onnx": _guarded(_load_onnx),
}
