"""Explain image files in batches, so that one bad image costs only itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from agf_fx.errors import ImageError
from agf_fx.imaging.preprocess import Preprocessing
from agf_fx.imaging.read import read_image
from agf_fx.models import LoadedModel

OnError = Callable[[Path, Exception], None]


class Prepared(NamedTuple):
    """An image file as the network takes it.

    Attributes:
        path: the file.
        tensor: (3, H, W) float32, normalised.
        shown: (H, W, 3) uint8, the same pixels before normalisation.
    """

    path: Path
    tensor: torch.Tensor
    shown: np.ndarray


class Explained(NamedTuple):
    """An image file with its maps.

    Attributes:
        path: the file.
        shown: (H, W, 3) uint8, the pixels the network saw.
        target: the K classes explained, each once.
        maps: (K, H, W) float32, signed.
        logits: (C,) float32.
        precision: how far each map is from float64's, as in `agf_fx.Explanation`; None where that was not asked for.
    """

    path: Path
    shown: np.ndarray
    target: list[int]
    maps: np.ndarray
    logits: torch.Tensor
    precision: list[float] | None = None


@dataclass(frozen=True)
class Targets:
    """Which classes to explain: some for every image, and the ``top_k`` strongest of each image.

    With neither, the strongest class of each image.
    """

    fixed: tuple[int, ...] = ()
    top_k: int | None = None

    def arguments(self, model: LoadedModel, images: torch.Tensor) -> dict[str, Any]:
        """Keyword arguments of ``explain`` for a batch (N, 3, H, W)."""
        if not self.fixed:
            return {"top_k": self.top_k or 1}
        target = torch.tensor(self.fixed, device=images.device).expand(len(images), -1)
        if self.top_k is not None:
            with torch.inference_mode():
                strongest = model.logits(images).topk(self.top_k, dim=1).indices
            target = torch.cat([target, strongest], dim=1)
        return {"target": target.clone()}


def explain_files(
    paths: Iterable[Path],
    explainer: Any,
    model: LoadedModel,
    targets: Targets,
    *,
    batch_size: int,
    max_pixels: int,
    check: bool = False,
    on_error: OnError,
) -> Iterator[Explained]:
    """Read, preprocess and explain image files, in order.

    Args:
        paths: the files.
        explainer: what `agf_fx.compile` returned for ``model``.
        model: the model with its preprocessing.
        targets: the classes to explain.
        batch_size: images explained at a time.
        max_pixels: as in `read_image`.
        check: also compute every map in float64, and say how far they are apart.
        on_error: called with each file that fails and why; the others go on. When a batch fails, its images
            are explained one by one.

    Yields:
        The files that could be explained.
    """

    def explain(batch: Sequence[Prepared]) -> list[Explained]:
        return _explain_together(batch, explainer, model, targets, check)

    prepared = prepared_files(paths, model.preprocessing, max_pixels, on_error)
    while batch := list(islice(prepared, batch_size)):
        yield from _explain(batch, explain, on_error)


def prepared_files(
    paths: Iterable[Path], preprocessing: Preprocessing, max_pixels: int, on_error: OnError
) -> Iterator[Prepared]:
    """Read and preprocess image files; ``on_error`` is called with those that cannot be, and why."""
    for path in paths:
        try:
            image = read_image(path, max_pixels=max_pixels)
            yield Prepared(path, *_prepare_one(path, image, preprocessing))
        except ImageError as error:
            on_error(path, error)


def _prepare_one(path: Path, image: Any, preprocessing: Preprocessing) -> tuple[torch.Tensor, np.ndarray]:
    try:
        return preprocessing.prepare(image)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _explain(
    batch: Sequence[Prepared], explain: Callable[[Sequence[Prepared]], list[Explained]], on_error: OnError
) -> Iterator[Explained]:
    try:
        explained = explain(batch)
    except Exception as error:  # whatever a model or the compiler raises on one image must not cost the others
        if len(batch) == 1:
            on_error(batch[0].path, error)
            return
        for item in batch:
            yield from _explain([item], explain, on_error)
    else:
        yield from explained


def _explain_together(
    batch: Sequence[Prepared], explainer: Any, model: LoadedModel, targets: Targets, check: bool
) -> list[Explained]:
    images = torch.stack([item.tensor for item in batch])
    images = images.to(next((weight.device for weight in model.model.parameters()), images.device))
    result = explainer.explain(images, **targets.arguments(model, images), check=check)
    maps = result.maps.detach().to("cpu", torch.float32).numpy()
    logits = result.logits.detach().to("cpu", torch.float32)
    precisions = [None] * len(batch) if result.precision is None else result.precision.tolist()
    rows = zip(batch, result.target.tolist(), maps, logits, precisions, strict=True)
    return [_without_repeats(*row) for row in rows]


def _without_repeats(
    item: Prepared, target: list[int], maps: np.ndarray, logits: torch.Tensor, precision: list[float] | None
) -> Explained:
    """Keep each class once: one that is asked for can also be among the strongest."""
    first = {index: position for position, index in reversed([*enumerate(target)])}
    kept = sorted(first.values())
    checked = None if precision is None else [precision[position] for position in kept]
    return Explained(item.path, item.shown, [target[position] for position in kept], maps[kept], logits, checked)
