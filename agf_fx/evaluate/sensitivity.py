"""Class sensitivity: how much the map of an image's likeliest class resembles that of its least likely one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from agf_fx.errors import InputError
from agf_fx.notices import warn


class ConstantMapWarning(UserWarning):
    """A map is constant or holds NaN, so that nothing correlates with it."""


def class_sensitivity(explainer: Any, images: Tensor | Iterable[Any]) -> Tensor:
    """Spearman's rank correlation between the maps of the most and of the least likely class of each image.

    Lower is more sensitive: a method whose maps do not depend on the class has 1. Rebuffi, Fong, Ji and Vedaldi (CVPR
    2020) compare methods by its mean over images.

    Args:
        explainer: from `agf_fx.compile` or `agf_fx.load`; it explains each image twice.
        images: a batch (N, C, H, W) as the explainer takes it; or batches, such as a DataLoader gives: tensors, or
            tuples or lists that begin with one. One batch is in memory at a time.

    Returns:
        (N,) in -1..1, float64 where the maps' device has it, on that device; NaN where either map is constant or
        holds NaN, with a `ConstantMapWarning`. Logits over positions, (N, classes, *positions), rank by their means.

    Raises:
        InputError: there are no images, or the model has one class alone; and what the explainer refuses.
    """
    found = [_of_batch(explainer, batch) for batch in _batches(images)]
    if not found:
        raise InputError("there is no batch of images; give at least one.")
    correlations = torch.cat(found)
    unknown = torch.nonzero(correlations.isnan()).flatten().tolist()
    if unknown:
        warn(
            f"maps of images {unknown} are constant or hold NaN, and have no correlation (NaN); leave these images out "
            "of a mean, as torch.nanmean does.",
            ConstantMapWarning,
        )
    return correlations


def _batches(images: Tensor | Iterable[Any]) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        yield images
        return
    try:
        batches = iter(images)
    except TypeError as error:
        raise InputError(f"images is a {type(images).__name__}; give a batch, or batches as a DataLoader.") from error
    for item in batches:
        yield item[0] if isinstance(item, tuple | list) and item else item


def _of_batch(explainer: Any, images: Tensor) -> Tensor:
    likeliest = explainer.explain(images)
    logits = likeliest.logits
    if logits.shape[1] < 2:
        raise InputError("the model has one class, and maps of two are compared; give a model with more.")
    means = logits.flatten(2).mean(2) if logits.dim() > 2 else logits
    least = means.sort(dim=1, descending=True, stable=True).indices[:, -1]  # as ranks of targets are counted
    return spearman(likeliest.maps[:, 0], explainer.explain(images, least).maps[:, 0])


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of maps, pair by pair: ``scipy.stats.spearmanr(a[n].flatten(), b[n].flatten())``.

    Equal entries share the mean of their ranks.

    Args:
        a, b: (N, ...) of one shape, on one device.

    Returns:
        (N,) in -1..1, float64 where the device has it, else float32; NaN where either is constant or holds NaN.

    Raises:
        InputError: shapes differ, or there are no entries.
    """
    if a.shape != b.shape or a.dim() < 2 or not a.numel():
        raise InputError(f"maps {tuple(a.shape)} and {tuple(b.shape)} must both be of one shape (N, ...), not empty.")
    x, y = _centred_ranks(a.flatten(1)), _centred_ranks(b.flatten(1))
    return (x * y).sum(1) / ((x * x).sum(1).sqrt() * (y * y).sum(1).sqrt())


def _centred_ranks(values: Tensor) -> Tensor:
    """Ranks of each row, less their mean, times two; whole numbers, so that a constant row is exactly 0."""
    ordered = values.sort(1).values.contiguous()
    below = torch.searchsorted(ordered, values.contiguous())
    up_to = torch.searchsorted(ordered, values.contiguous(), right=True)
    ranks = (below + up_to - values.shape[1]).to(torch.float32 if values.device.type == "mps" else torch.float64)
    return torch.where(values.isnan().any(1, keepdim=True), torch.nan, ranks)
