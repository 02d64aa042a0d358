"""Checks of what users hand in: images, targets, top_k."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from agf_fx.ambient import check_concrete
from agf_fx.errors import InputError, NonFiniteInputError, OptionsError, TargetError
from agf_fx.frontend.examples import check_placement
from agf_fx.ir.graph import CanonicalGraph


def as_batch(images: object) -> Tensor:
    """What users hand over as images, as one batch: a tensor, an array, or a list of images of one size.

    Raises:
        InputError: it is none of these; what to do.
    """
    if isinstance(images, Tensor):
        return images
    kind = type(images)
    if kind.__module__.partition(".")[0] == "PIL":
        raise InputError(
            "images is a picture of Pillow; make it the tensor that the model takes, as "
            "loaded.preprocessing.prepare(picture)[0][None] or torchvision's transforms do."
        )
    if kind.__module__ == "numpy" and hasattr(images, "__array__"):
        try:
            return torch.from_numpy(images.copy() if min(images.strides, default=0) < 0 else images)
        except TypeError as error:
            raise InputError(f"images is an array that is no batch of numbers ({error}).") from error
    if isinstance(images, list | tuple) and images and all(isinstance(item, Tensor) for item in images):
        if len(images) == 1 and images[0].dim() > 3:
            return images[0]
        if len({(item.shape, item.dtype, item.device) for item in images}) == 1 and images[0].dim() < 4:
            return torch.stack([*images])
        raise InputError(
            "images is a list of tensors that are not single images of one size; join batches with torch.cat(images), "
            "and images of one size with torch.stack(images)."
        )
    raise InputError(f"images is a {kind.__name__}; give one batch, a floating-point tensor (N, C, H, W).")


def batches_of(loader: Iterable[Any], like: Tensor) -> Iterator[Tensor]:
    """The images of a loader, batch by batch, checked, on the device and in the dtype of ``like``.

    Args:
        loader: batches (N, C, H, W) of images, floating, or tuples or lists that begin with one, such as a DataLoader
            gives.
        like: a weight of the model.

    Raises:
        InputError: it gives something else; in which batch.
        NonFiniteInputError: NaN or infinite pixels; in which batch, and ``indices`` says of which images.
    """
    if isinstance(loader, Tensor):
        raise InputError("loader is a tensor; give batches, such as images.split(64) or a DataLoader.")
    try:
        found = iter(loader)
    except TypeError as error:
        raise InputError(f"loader is a {type(loader).__name__}; give batches, such as a DataLoader.") from error
    for number, item in enumerate(found):
        try:
            images = as_batch(item[0] if isinstance(item, tuple | list) and item else item)
            check_concrete(images)
            if images.dim() < 2 or not images.is_floating_point():
                raise InputError(
                    f"images are {images.dtype} of shape {tuple(images.shape)}; give floating-point images "
                    "(N, C, H, W), as the model takes them."
                )
            check_pixels(images)
        except NonFiniteInputError as error:
            raise NonFiniteInputError(f"batch {number} of the loader: {error}", indices=error.indices) from error
        except InputError as error:
            raise InputError(f"batch {number} of the loader: {error}") from error
        yield images.to(like)


def check_images(images: Tensor, canonical: CanonicalGraph, weights: Iterable[Tensor]) -> None:
    """Check a batch against the captured model.

    Raises:
        InputError: empty batch, or dtype or device differ from the model's.
        NonFiniteInputError: NaN or infinite pixels; ``indices`` says in which images.
    """
    check_placement(images, weights, canonical.name)
    check_pixels(images)


def check_pixels(images: Tensor) -> None:
    """Check that there are images, and that they hold finite numbers.

    Raises:
        InputError: empty batch.
        NonFiniteInputError: NaN or infinite pixels; ``indices`` says in which images.
    """
    if images.shape[0] == 0:
        raise InputError("the batch is empty; give at least one image.")
    if images.numel() == 0:
        raise InputError(f"images of shape {tuple(images.shape[1:])} have no pixels; give ones of some size.")
    finite = torch.isfinite(images).flatten(1).all(1)
    if not bool(finite.all()):
        bad = tuple(torch.nonzero(~finite).flatten().tolist())
        raise NonFiniteInputError(
            f"images {list(bad)} of the batch contain NaN or infinite pixels; repair them or leave them out.",
            indices=bad,
        )


def check_target(
    target: int | Sequence[int] | Tensor, images: Tensor, num_classes: int, positions: tuple[int, ...] = ()
) -> Tensor:
    """Targets as an int64 tensor (N, K) on the images' device, coded as in `agf_fx.rules.targets`.

    Args:
        target: classes (), (N,) or (N, K); for logits over positions also (N, K, 1 + number of position dimensions), a
            class and where.
        images: (N, ...).
        num_classes: how many classes there are.
        positions: the shape over which the logits spread.

    Raises:
        TargetError: not whole numbers, of another shape, or outside 0 … classes - 1 or the positions.
    """
    count = images.shape[0]
    try:
        classes = torch.as_tensor(target, device=images.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"target {target!r} is not a class number or a tensor of class numbers ({error}).") from error
    if classes.is_floating_point() or classes.is_complex() or classes.dtype is torch.bool:
        raise TargetError(
            f"target is {classes.dtype} of shape {tuple(classes.shape)}; give class numbers as int or int64. If it is "
            "a second input of the model: agf-fx explains models of one image batch."
        )
    if classes.dim() == 0:
        classes = classes.expand(count)
    where = None
    if positions and classes.dim() == 3 and classes.shape[2] == 1 + len(positions):
        classes, where = classes[..., 0], classes[..., 1:]
    if classes.dim() not in (1, 2) or classes.shape[0] != count or classes.shape[-1] == 0:
        raise TargetError(
            f"target has shape {tuple(classes.shape)} for {count} images; give an int, ({count},) for one class per "
            f"image, or ({count}, K) for K classes per image."
        )
    wrong = classes[(classes < 0) | (classes >= num_classes)]
    if wrong.numel():
        raise TargetError(f"target {int(wrong[0])} is outside 0 … {num_classes - 1}, the classes of the model.")
    classes = classes.reshape(count, -1).to(torch.int64)
    return classes if where is None else classes + num_classes * (1 + _flat_position(where, positions))


def _flat_position(where: Tensor, positions: tuple[int, ...]) -> Tensor:
    """(N, K, d) coordinates as one number each, row by row: (N, K)."""
    flat = torch.zeros_like(where[..., 0])
    for coordinate, size in zip(where.unbind(-1), positions, strict=True):
        wrong = coordinate[(coordinate < 0) | (coordinate >= size)]
        if wrong.numel():
            raise TargetError(f"position {int(wrong[0])} is outside 0 … {size - 1}: logits spread over {positions}.")
        flat = flat * size + coordinate
    return flat


def requested_targets(
    target: int | Sequence[int] | Tensor | None,
    top_k: int | None,
    images: Tensor,
    num_classes: int,
    positions: tuple[int, ...],
) -> Tensor:
    """The target codes (N, K) of a call: its targets, or else its top classes, one if not said.

    Raises:
        OptionsError: both are given, or ``top_k`` is no number of classes.
        TargetError: see `check_target`.
    """
    if target is not None and top_k is not None:
        raise OptionsError("give target or top_k, not both.")
    if target is None:
        return best(check_top_k(top_k, num_classes), images)
    return check_target(target, images, num_classes, positions)


def maps_as_asked(maps: Tensor, target: int | Sequence[int] | Tensor | None) -> Tensor:
    """Maps (N, K, H, W) as a call returns them: without K, unless ``target`` has it."""
    several = target is not None and torch.as_tensor(target).dim() >= 2
    return maps if several else maps[:, 0]


def check_top_k(top_k: int | None, num_classes: int) -> int:
    """How many top classes to explain: 1 if not said.

    Raises:
        OptionsError: not a whole number from 1 to the number of classes.
    """
    if top_k is None:
        return 1
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= num_classes:
        raise OptionsError(f"top_k is {top_k!r}; give a whole number from 1 to {num_classes}.")
    return top_k


def best(count: int, images: Tensor) -> Tensor:
    """Targets (N, count) that stand for each image's highest-scoring classes, -1 for the first."""
    return torch.arange(-1, -count - 1, -1, device=images.device).expand(images.shape[0], count)
