"""What experiments are made of: images with what is known of them, a subject, and a row for each map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from agf_fx.errors import InputError
from agf_fx.evaluate.perturbation import Predict

Row = dict[str, Any]
ExplainEach = Callable[[Tensor, Tensor], Tensor]


class BatchLike(Protocol):
    """Images with what is known of them.

    Attributes:
        names: of the N images.
        images: (N, C, H, W) as the network takes them.
        targets: (N, K) int64 classes; -1 where an image has fewer than K.
        masks: (N, K, H, W) bool, the object of each class, or of none that is known; or None.
        ignored: (N, H, W) bool, pixels that do not count; or None.
    """

    names: Iterable[str]
    images: Tensor
    targets: Tensor
    masks: Tensor | None
    ignored: Tensor | None


class Loaded(Protocol):
    """What is asked of a network with its preprocessing; see `agf_fx.models.LoadedModel`."""

    model: nn.Module
    multi_label: bool

    @property
    def preprocessing(self) -> Any:
        """With ``mean`` and ``std``, a number for each channel."""

    def logits(self, images: Tensor) -> Tensor:
        """Images (M, C, H, W) -> logits (M, classes)."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a network and a method.

    Attributes:
        predict: images (M, C, H, W) -> logits (M, classes).
        explain: images (N, C, H, W) and classes (N, K) -> maps (N, K, H, W).
        black: black in the units of the images, one number for each channel.
        multi_label: whether probabilities are sigmoids.
        model: the network, where an experiment draws its weights anew.
        bind: such a network -> how it is explained, as ``explain``.
    """

    predict: Predict
    explain: ExplainEach
    black: tuple[float, ...] = (0.0,)
    multi_label: bool = False
    model: nn.Module | None = None
    bind: Callable[[nn.Module], ExplainEach] | None = None

    @classmethod
    def of(cls, loaded: Loaded, explain: Any) -> Subject:
        """A network that `agf_fx.load_model` gave, and an explainer of it: what is black and what probabilities are is
        known there.

        Args:
            loaded: the network.
            explain: an `agf_fx.Explainer` of it; or images and classes -> maps, as above, which no experiment binds to
                other weights.
        """
        shown = loaded.preprocessing
        black = tuple(-mean / std for mean, std in zip(shown.mean, shown.std, strict=True))
        bind = getattr(explain, "bind", None)
        return cls(loaded.logits, explain, black, loaded.multi_label, loaded.model, bind)


@dataclass(frozen=True)
class Experiment:
    """What is measured, of which images, and which way is better.

    Attributes:
        name: on the command line.
        title: in a sentence.
        citation: where it comes from.
        measures: name -> whether more is better, or None where neither is.
        measure: of a subject and a batch, and options by name -> a row for each map, without names.
            curve: the measures that are steps of a curve, in order, as in the paper's Fig. 3; with where each step is.
    """

    name: str
    title: str
    citation: str
    measures: Mapping[str, bool | None]
    measure: Callable[..., list[Row]]
    curve: Mapping[str, float] = field(default_factory=dict)


def classes_of(subject: Subject, batch: BatchLike) -> Tensor:
    """The classes (N, K) that are explained: those of an image, or the likeliest where none of it is known.

    An image of which it is known that it shows no object (masks, none of which has a pixel) has no class.
    """
    target = batch.targets if batch.targets.shape[1] else batch.targets.new_full((len(batch.images), 1), -1)
    unknown = (target < 0).all(1)
    if batch.masks is not None:
        unknown = unknown & batch.masks.flatten(1).any(1)
    if not bool(unknown.any()):
        return target
    likeliest = logits_of(subject, batch.images).argmax(1)
    first = torch.where(unknown, likeliest.to(target), target[:, 0])
    return torch.cat([first[:, None], target[:, 1:]], 1)


def logits_of(subject: Subject, images: Tensor) -> Tensor:
    """(N, classes); logits over positions count by their means."""
    with torch.no_grad():
        logits = subject.predict(images)
    return logits.flatten(2).mean(2) if logits.dim() > 2 else logits


def maps_of(subject: Subject, images: Tensor, target: Tensor) -> Tensor:
    """Maps (N, K, H, W) of the classes; where there is none (-1), those of class 0, which `table` leaves out.

    Raises:
        InputError: maps are not finite.
    """
    maps = subject.explain(images, target.clamp_min(0)).detach()
    if not bool(maps.isfinite().all()):
        raise InputError("maps hold NaN or infinity; explain in float64 (precision), or leave the image out.")
    return maps


def masks_of(batch: BatchLike, target: Tensor) -> Tensor:
    """Masks (N, K, H, W): those of the images, or their one object for all classes.

    Raises:
        InputError: the images have no masks.
    """
    if batch.masks is None:
        raise InputError("this compares maps with masks of objects, and these images have none.")
    masks = batch.masks
    if not masks.shape[1]:  # no image of the batch has an object
        masks = masks.new_zeros(len(masks), 1, *masks.shape[2:])
    return masks.expand(*target.shape, *masks.shape[2:])


def seen_of(target: Tensor, masks: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Classes (N, K), with -1 in the place of those of which the prepared image shows nothing.

    An object may lie where the image was cut off, or be too small for the size of the network; no map can point at it.

    Args:
        target: (N, K).
        masks: (N, K, H, W) bool.
        ignored: (N, H, W) bool, pixels that count for nothing; or None.
    """
    shown = masks if ignored is None else masks & ~ignored[:, None]
    return torch.where(shown.flatten(2).any(2), target, -1)


def table(target: Tensor, **measures: Tensor) -> list[Row]:
    """A row for each class (N, K) that is not -1, of measures (N, K); ``index`` is that of the image."""
    values = {name: value.detach().double().cpu().tolist() for name, value in measures.items()}
    return [
        {"index": n, "target": label, **{name: value[n][k] for name, value in values.items()}}
        for n, labels in enumerate(target.tolist())
        for k, label in enumerate(labels)
        if label >= 0
    ]
