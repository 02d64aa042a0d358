"""Experiments with images of which it is known where objects are."""

from __future__ import annotations

import torch
from torch import Tensor

from agf_fx.errors import InputError, OptionsError
from agf_fx.evaluate.experiments.subject import (
    BatchLike,
    Experiment,
    Row,
    Subject,
    classes_of,
    logits_of,
    maps_of,
    masks_of,
    seen_of,
    table,
)
from agf_fx.evaluate.pointing import cell_shares, mask_shares, peaks_inside, rank_accuracy
from agf_fx.evaluate.segmentation import Threshold, segmentation


def _segmentation(
    subject: Subject, batch: BatchLike, *, threshold: Threshold = "auto", minimum: float | None = None
) -> list[Row]:
    """Of networks with several labels an image, only those with a probability above ``minimum``, by default 0.5."""
    target = classes_of(subject, batch)
    target = _likely(subject, batch, target, 0.5 if minimum is None and subject.multi_label else minimum)
    masks = masks_of(batch, target)
    target = seen_of(target, masks, batch.ignored)
    maps, ignored = maps_of(subject, batch.images, target), _ignored(batch, masks)
    ignored = None if ignored is None else ignored.flatten(0, 1)
    found = segmentation(maps.flatten(0, 1), masks.flatten(0, 1), threshold=threshold, ignored=ignored)
    shape = target.shape
    return table(
        target,
        pixel_accuracy=found.pixel_accuracy.reshape(shape),
        mean_iou=found.mean_iou.reshape(shape),
        average_precision=found.both_average_precision.reshape(shape),
        object_average_precision=found.average_precision.reshape(shape),
    )


def _likely(subject: Subject, batch: BatchLike, target: Tensor, minimum: float | None) -> Tensor:
    """Classes (N, K), with -1 in the place of those whose probability is not above ``minimum``, if it is a number."""
    if minimum is None:
        return target
    if isinstance(minimum, bool) or not isinstance(minimum, (int, float)) or not 0 <= minimum < 1:
        raise OptionsError(f"minimum={minimum!r} must be a probability, from 0 to below 1.")
    logits = logits_of(subject, batch.images)
    probability = (logits.sigmoid() if subject.multi_label else logits.softmax(1)).gather(1, target.clamp_min(0))
    return torch.where(probability > minimum, target, -1)


def _pointing(subject: Subject, batch: BatchLike, *, tolerance: int = 0) -> list[Row]:
    target = classes_of(subject, batch)
    masks = masks_of(batch, target)
    target = seen_of(target, masks, batch.ignored)
    maps, ignored = maps_of(subject, batch.images, target), _ignored(batch, masks)
    return table(
        target,
        peak=peaks_inside(maps, masks, tolerance, ignored),
        share=mask_shares(maps, masks, ignored),
        ranks=rank_accuracy(maps, masks, ignored),
    )


def _ignored(batch: BatchLike, masks: Tensor) -> Tensor | None:
    """The pixels that count for nothing, for each mask (N, K, H, W)."""
    return None if batch.ignored is None else batch.ignored[:, None].expand(masks.shape)


def _separation(subject: Subject, batch: BatchLike) -> list[Row]:
    """Of images with several objects: the share of the relevance on objects that lies on the explained one."""
    target = batch.targets
    if target.shape[1] < 2:
        return []
    masks = masks_of(batch, target)
    target = seen_of(target, masks, batch.ignored)
    positive = maps_of(subject, batch.images, target).clamp_min(0)
    masks, ignored = masks & (target >= 0)[..., None, None], _ignored(batch, masks)
    if ignored is not None:
        positive, masks = positive * ~ignored, masks & ~ignored
    others = masks.any(1, keepdim=True) & ~masks
    own, other = ((positive * part).sum((2, 3)) for part in (masks, others))
    both = own + other
    count = (target >= 0).sum(1, keepdim=True).clamp_min(1)
    share = torch.where(both > 0, own / both.clamp_min(torch.finfo(own.dtype).tiny), 1 / count)
    alone = (count < 2).expand(target.shape)  # of one object there is nothing to tell apart
    wins = (own > other).double()
    return table(torch.where(alone, -1, target), share=share, wins=wins, peak=peaks_inside(positive, masks, 0, ignored))


def _grid(subject: Subject, batch: BatchLike, *, cells: int = 2) -> list[Row]:
    """Of mosaics, of which target k is what cell k shows, row by row."""
    target = batch.targets
    if target.shape[1] != cells**2:
        raise InputError(f"mosaics of {cells}x{cells} pictures have {cells**2} classes each, not {target.shape[1]}.")
    maps = maps_of(subject, batch.images, target)
    shares = cell_shares(maps, cells).flatten(2)
    peaks = (maps == maps.amax((2, 3), keepdim=True)).to(maps.dtype)
    peaked = cell_shares(peaks, cells).flatten(2).diagonal(dim1=1, dim2=2)
    first = shares.argmax(2) == torch.arange(cells**2, device=shares.device)
    some = maps.amax((2, 3)) > 0
    return table(target, share=shares.diagonal(dim1=1, dim2=2), wins=first & some, peak=peaked * some)


EXPERIMENTS = (
    Experiment(
        "segmentation",
        "maps as segmentations of the object",
        "Gur, Ali and Wolf, AAAI 2021, Tab. 3",
        dict.fromkeys(("pixel_accuracy", "mean_iou", "average_precision", "object_average_precision"), True),
        _segmentation,
    ),
    Experiment(
        "pointing",
        "the peak, the relevance and the most relevant pixels on the object",
        "Zhang et al., ECCV 2016; Arras, Osman and Samek, Information Fusion 2022",
        dict.fromkeys(("peak", "share", "ranks"), True),
        _pointing,
    ),
    Experiment(
        "separation",
        "the share of the relevance on objects that lies on the explained one",
        "after Gur, Ali and Wolf, AAAI 2021, Fig. 2(c)",
        dict.fromkeys(("share", "wins", "peak"), True),
        _separation,
    ),
    Experiment(
        "grid",
        "grid pointing game: the share of the positive relevance in the explained picture of a mosaic",
        "Böhle, Fritz and Schiele, CVPR 2021",
        dict.fromkeys(("share", "wins", "peak"), True),
        _grid,
    ),
)
