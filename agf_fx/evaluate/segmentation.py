"""Maps as segmentations: pixel accuracy, intersection over union, average precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agf_fx.errors import InputError, MissingDependencyError, OptionsError

Threshold = float | Literal["auto", "mean"]


@dataclass(frozen=True)
class Segmentations:
    """Maps (M, H, W) beside masks: all (M,), float64, one number a map; NaN where no pixel counts.

    Attributes:
        pixel_accuracy: the share of pixels on the right side of the threshold.
        object_iou: intersection over union of the object.
        background_iou: of the rest. NaN where there is none of it in mask and map, as `object_iou`.
        average_precision: of the map's values for the object's pixels; NaN for an empty mask.
        both_average_precision: of the two sides of the threshold, as zeros and ones, for the object and for the rest,
            of all pixels twice: about 0.5 at random whatever the size of the object. This is how the published code
            computes the mAP of the paper's Tab. 3.
    """

    pixel_accuracy: Tensor
    object_iou: Tensor
    background_iou: Tensor
    average_precision: Tensor
    both_average_precision: Tensor

    @property
    def mean_iou(self) -> Tensor:
        """The mean of both."""
        return torch.stack([self.object_iou, self.background_iou]).nanmean(0)


def segmentation(
    maps: Tensor, masks: Tensor, *, threshold: Threshold = "auto", ignored: Tensor | None = None
) -> Segmentations:
    """Compare maps with masks.

    Args:
        maps: (M, H, W) floating, finite.
        masks: (M, H, W) bool; the object.
        threshold: values above it are of the object: a number; ``"mean"``, the map's own; or ``"auto"``, 0 for maps
            with negative values and the mean for others (Gur et al. 2021, "Semantic segmentation metrics").
        ignored: (M, H, W) bool; pixels that do not count, such as the borders in PASCAL VOC.

    Raises:
        InputError: shapes differ, or maps are not finite.
        OptionsError: the threshold is neither a number nor one of these words.
        MissingDependencyError: scikit-learn is not installed.
    """
    _check(maps, masks, ignored)
    if isinstance(threshold, str) and threshold not in ("auto", "mean"):
        raise OptionsError(f"threshold is {threshold!r}; give a number, 'mean' or 'auto'.")
    counted = torch.ones_like(masks) if ignored is None else ~ignored
    found = maps > _levels(maps, counted, threshold)

    def share(part: Tensor, whole: Tensor) -> Tensor:
        top, below = ((values & counted).sum((1, 2)).double() for values in (part, whole))
        return (top / below).cpu()  # 0/0 is NaN

    precisions = [_precisions(*row) for row in zip(maps, found, masks, counted, strict=True)]
    alone, both = torch.tensor(precisions, dtype=torch.float64).reshape(-1, 2).unbind(1)
    return Segmentations(
        pixel_accuracy=share(found == masks, counted),
        object_iou=share(found & masks, found | masks),
        background_iou=share(~found & ~masks, ~found | ~masks),
        average_precision=alone,
        both_average_precision=both,
    )


def _levels(maps: Tensor, counted: Tensor, threshold: Threshold) -> Tensor:
    """The threshold of each map, (M, 1, 1)."""
    if not isinstance(threshold, str):
        return maps.new_full((len(maps), 1, 1), threshold)
    means = ((maps * counted).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1))[:, None, None]
    return means if threshold == "mean" else means.masked_fill((maps < 0).flatten(1).any(1)[:, None, None], 0)


def _precisions(values: Tensor, found: Tensor, mask: Tensor, counted: Tensor) -> tuple[float, float]:
    try:
        from sklearn.metrics import average_precision_score
    except ImportError as error:
        raise MissingDependencyError(
            "average precision is computed by scikit-learn: pip install 'agf-fx[data]'"
        ) from error
    scores, sides, wanted = values[counted].double().cpu(), found[counted].cpu(), mask[counted].cpu()
    if not len(scores):
        return float("nan"), float("nan")
    alone = float(average_precision_score(wanted, scores)) if bool(wanted.any()) else float("nan")
    twice = average_precision_score(torch.cat([wanted, ~wanted]), torch.cat([sides, ~sides]).double())
    return alone, float(twice)


def _check(maps: Tensor, masks: Tensor, ignored: Tensor | None) -> None:
    shapes = [tuple(values.shape) for values in (maps, masks, ignored) if values is not None]
    dtypes = {values.dtype for values in (masks, ignored) if values is not None}
    if maps.dim() != 3 or len(set(shapes)) > 1 or dtypes != {torch.bool}:
        raise InputError(f"maps and masks are {shapes} of {dtypes}; give (M, H, W), masks of bool.")
    if not bool(maps.isfinite().all()):
        raise InputError("maps hold NaN or infinity; leave these images out.")
