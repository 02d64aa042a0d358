"""Saliency bias: what a method makes of an object that another one outshines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from agf_fx.errors import OptionsError
from agf_fx.evaluate.experiments.subject import (
    BatchLike,
    Experiment,
    Row,
    Subject,
    logits_of,
    maps_of,
    masks_of,
    seen_of,
    table,
)
from agf_fx.evaluate.imputation import Imputation, noisy_linear

CONTRASTS = (1.0, 0.7, 0.5)


def faded(images: Tensor, mask: Tensor, contrast: float, impute: Imputation) -> Tensor:
    """Images whose object is mixed with what would be there without it: contrast · image + (1 - contrast) · imputed.

    Args:
        images: (N, C, H, W).
        mask: (N, H, W) bool, the object.
        contrast: from 0, where the object is gone, to 1.
        impute: what would be there.

    Returns:
        (N, C, H, W); outside the mask, the images.
    """
    return images if contrast == 1 else torch.lerp(impute(images, mask), images, contrast)


def _saliency(
    subject: Subject,
    batch: BatchLike,
    *,
    contrasts: Sequence[float] = CONTRASTS,
    impute: Imputation | None = None,
) -> list[Row]:
    """Of images with several objects: one of them fades, in turn, and the maps of all are looked at."""
    target = batch.targets
    levels = tuple(contrasts) if isinstance(contrasts, (list, tuple)) else (contrasts,)
    if not levels or any(isinstance(c, bool) or not isinstance(c, (int, float)) or not 0 < c <= 1 for c in levels):
        raise OptionsError(f"contrasts={contrasts!r} must be numbers above 0 and up to 1, such as [1, 0.7, 0.5].")
    if target.shape[1] < 2:
        return []
    masks = masks_of(batch, target)
    target = seen_of(target, masks, batch.ignored)
    masks = masks & (target >= 0)[..., None, None]
    if batch.ignored is not None:
        masks = masks & ~batch.ignored[:, None]
    alone = (target >= 0).sum(1) < 2  # of one object there is nothing to tell apart
    fill, rows = noisy_linear(noise=0.0) if impute is None else impute, []
    for contrast in levels:
        for faint in range(target.shape[1]):
            there = (target[:, faint] >= 0) & ~alone
            images = faded(batch.images, masks[:, faint] & ~_rest(masks, faint), contrast, fill)
            rows += _measured(subject, images, masks, torch.where(there[:, None], target, -1), faint, contrast)
    return rows


def _measured(
    subject: Subject, images: Tensor, masks: Tensor, target: Tensor, faint: int, contrast: float
) -> list[Row]:
    """Of each map the share of the relevance on objects that lies on the explained one."""
    positive = maps_of(subject, images, target).clamp_min(0)
    own = (positive * masks).sum((2, 3))
    other = torch.stack([(positive[:, k] * _others(masks, k)).sum((1, 2)) for k in range(target.shape[1])], 1)
    both, count = own + other, (target >= 0).sum(1, keepdim=True).clamp_min(1)
    share = torch.where(both > 0, own / both.clamp_min(torch.finfo(own.dtype).tiny), 1 / count)
    logits = logits_of(subject, images)
    probability = (logits.sigmoid() if subject.multi_label else logits.softmax(1)).gather(1, target.clamp_min(0))
    rows = []
    for k in range(target.shape[1]):
        which = {"which": "faint" if k == faint else "salient", "step": contrast}
        one = slice(k, k + 1)
        found = table(target[:, one], share=share[:, one], wins=(own > other)[:, one], probability=probability[:, one])
        rows += [which | row for row in found]
    return rows


def _others(masks: Tensor, k: int) -> Tensor:
    """Pixels of other objects than number k, and not of it: (N, H, W)."""
    return _rest(masks, k) & ~masks[:, k]


def _rest(masks: Tensor, k: int) -> Tensor:
    """Pixels of other objects than number k: (N, H, W)."""
    return torch.cat([masks[:, :k], masks[:, k + 1 :]], 1).any(1)


EXPERIMENTS = (
    Experiment(
        "saliency-bias",
        "whether an object is still found when it is faint and another one is not",
        "after Gur, Ali and Wolf, AAAI 2021, on the saliency bias",
        {"share": True, "wins": True, "probability": None},
        _saliency,
    ),
)
