"""The images that a model is captured with: what they have to be, and what is taken from them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from agf_fx.ambient import check_concrete
from agf_fx.errors import InputError


def only_batch(example_inputs: Any, model: nn.Module) -> Tensor:
    """The one batch of images in ``example_inputs``, given alone or as a tuple of one.

    Raises:
        InputError: something else is given, further inputs among them; the message names a model's other inputs.
    """
    if isinstance(example_inputs, Mapping):
        raise InputError(
            "example_inputs is a dictionary, and agf-fx explains models of one image batch. Give the images alone, and "
            "wrap the model in a module whose forward takes the images and hands them on by name."
        )
    items = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    if len(items) > 1:
        forms = ", ".join(str(tuple(i.shape)) if isinstance(i, Tensor) else type(i).__name__ for i in items)
        others = further_inputs(model)
        named = f", such as {', '.join(map(repr, others))} of {type(model).__name__}.forward" if others else ""
        raise InputError(
            f"example_inputs holds {len(items)} inputs ({forms}), and agf-fx explains models of one image batch: the "
            "others would be left out. Wrap the model in a module whose forward takes the images and adds what else it "
            f"needs{named}; several images are one batch, torch.stack(images)."
        )
    if not items or not isinstance(items[0], Tensor):
        raise InputError("example_inputs must be one batch of images, or a tuple holding just that.")
    _check_kind(items[0])
    return items[0]


def _check_kind(images: Tensor) -> None:
    check_concrete(images)
    if images.dim() >= 2 and images.numel() > 0 and images.is_floating_point():
        return
    advice = "give floating-point images of shape (N, C, H, W) with N ≥ 1 and some pixels"
    if not images.is_floating_point() and not images.is_complex():
        advice += ": images.float(), scaled as the model was trained with, such as images.float() / 255"
    raise InputError(f"the example batch is {images.dtype} of shape {tuple(images.shape)}; {advice}.")


def further_inputs(model: nn.Module) -> list[str]:
    """The names of what a model's forward takes after the images."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())[1:]
    except (TypeError, ValueError):  # a callable without a signature
        return []
    return [parameter.name for parameter in parameters]


def check_placement(images: Tensor, weights: Iterable[Tensor], name: str) -> None:
    """Check that images have the dtype, or one of the dtypes, and the device of a model's weights.

    Raises:
        InputError: they differ.
    """
    floating = [weight for weight in weights if weight.is_floating_point()]
    if not floating:
        return
    model = floating[0]
    if all(images.dtype != weight.dtype for weight in floating) or images.device != model.device:
        raise InputError(
            f"the images are {images.dtype} on {images.device}, the weights of {name} are {model.dtype} on "
            f"{model.device}; use images.to({str(model.device)!r}, {model.dtype})."
        )


def doubled(images: Tensor) -> Tensor:
    """The first image twice: batch sizes 0 and 1 are special to symbolic shapes, so examples have two samples."""
    return images.detach()[:1].expand(2, *images.shape[1:]).contiguous()


def telling(images: Tensor) -> Tensor:
    """Two images to try a model with: the first two, unless they are one, blank, or hold no numbers."""
    two = images.detach()[:2]
    finite = bool(torch.isfinite(two).all())
    if len(two) == 2 and finite and all(bool((image != image.flatten()[0]).any()) for image in two):
        return two.clone()
    return torch.rand(2, *images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
