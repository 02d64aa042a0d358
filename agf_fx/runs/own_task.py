"""Evaluation of networks that were trained without labels: Alg. 2 says which class of their own task is explained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from torch import Tensor

from agf_fx.atomic import atomic_path
from agf_fx.data.datasets import Batch, Dataset, batches
from agf_fx.errors import OptionsError
from agf_fx.evaluate.experiments import BatchLike, Subject
from agf_fx.evaluate.experiments.subject import logits_of
from agf_fx.models import LoadedModel
from agf_fx.options import require_one_of
from agf_fx.runtime.explainer import Explainer
from agf_fx.ssl import MemoryBank, explain
from agf_fx.ssl.explanation import COMBINATIONS, Combine

EXPERIMENTS = ("negative-perturbation", "positive-perturbation", "insertion-deletion", "segmentation", "pointing")
"""Those that ask one class of each image."""
_FILE = "memory.safetensors"


@dataclass(frozen=True)
class OwnTask:
    """How a class is found for each image; see `agf_fx.ssl.explain`.

    Attributes:
        neighbours: images among which the nearest neighbour is looked for; None for ``combine="none"``.
        source: that dataset as it was named.
        combine: ``"difference"``, ``"sum"`` or ``"none"``.

    Raises:
        OptionsError: there is no such combination, or it lacks neighbours.
    """

    neighbours: Dataset | None
    source: str
    combine: str

    def __post_init__(self) -> None:
        require_one_of("combine", self.combine, COMBINATIONS)
        if (self.neighbours is None) != (self.combine == "none"):
            said = "needs" if self.neighbours is None else "looks at no"
            raise OptionsError(f"--combine {self.combine} {said} neighbours; --neighbours KIND:PATH has these.")

    def __str__(self) -> str:
        return f"{self.combine}, {self.source}" if self.neighbours is not None else self.combine

    def memory(self, model: LoadedModel, folder: Path, size: int, workers: int, console: Console) -> MemoryBank | None:
        """The bank, which is kept in the folder when it is whole; None where no neighbour is asked for.

        Raises:
            InputError: no image could be read.
            CaptureError: the network has no linear head.
        """
        if self.neighbours is None:
            return None
        file = folder / _FILE
        if file.exists():
            return MemoryBank.load(file)
        read = batches(self.neighbours, model.preprocessing, size=size, workers=workers)
        with console.status(f"encoding {len(self.neighbours)} images of {self.source} ..."):
            bank = MemoryBank.build(
                model.model, (batch.images for batch in read if len(batch.images)), output=model.select
            )
        with atomic_path(file) as path:
            bank.save(path)
        return bank

    def explained_by(self, explainer: Explainer, memory: MemoryBank | None) -> Callable[[Tensor, Tensor], Tensor]:
        """Images (N, C, H, W) and classes (N, K), which say how many -> maps (N, K, H, W) of the class of Alg. 2."""

        def maps(images: Tensor, target: Tensor) -> Tensor:
            found = explain(explainer, images, memory, combine=cast(Combine, self.combine)).maps
            return found.expand(-1, target.shape[1], *found.shape[2:])

        return maps


def in_own_classes(read: Iterable[BatchLike], subject: Subject) -> Iterator[Batch]:
    """The batches with what the network itself says of each image as its class, and all objects as one."""
    for batch in read:
        targets = torch.empty(0, 1, dtype=torch.int64)
        if len(batch.images):
            targets = logits_of(subject, batch.images).argmax(1, keepdim=True)
        masks = None if batch.masks is None else batch.masks.any(1, keepdim=True)
        failures = tuple(getattr(batch, "failures", ()))
        yield Batch(tuple(batch.names), batch.images, targets, masks, batch.ignored, failures)
