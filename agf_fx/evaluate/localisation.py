"""Class-specificity: does the map of a class light up the object of that class, and not the other one?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agf_fx.errors import InputError


@dataclass(frozen=True)
class Localisation:
    """Class-specificity over M maps of two-object images.

    Attributes:
        count: M.
        own_wins: share of maps with more positive relevance on the explained object than on the other one.
        own_share: mean over the maps of own / (own + other) positive relevance; 0.5 means no preference. A map
            without positive relevance on either object counts as 0.5.
        peak_on_own: share of maps whose largest value lies on the explained object.
    """

    count: int
    own_wins: float
    own_share: float
    peak_on_own: float


def localisation(maps: Tensor, masks: Tensor) -> Localisation:
    """Measure maps of two-object images, explained once for either object.

    Args:
        maps: (N, 2, H, W) floating; ``maps[:, k]`` explains the class of object k.
        masks: (N, 2, H, W) bool; the pixels of object k. The two masks of an image are disjoint.

    Raises:
        InputError: shapes differ or are not of that form.
    """
    if maps.dim() != 4 or maps.shape != masks.shape or maps.shape[1] != 2 or not len(maps):
        raise InputError(f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} must both be (N, 2, H, W), N ≥ 1.")
    positive = maps.clamp_min(0)
    own = (positive * masks).sum((2, 3))
    other = (positive * masks.flip(1)).sum((2, 3))
    both = own + other
    share = torch.where(both > 0, own / both.clamp_min(torch.finfo(maps.dtype).tiny), torch.full_like(both, 0.5))
    peak = maps.flatten(2).argmax(2, keepdim=True)
    return Localisation(
        count=own.numel(),
        own_wins=(own > other).double().mean().item(),
        own_share=share.double().mean().item(),
        peak_on_own=masks.flatten(2).gather(2, peak).double().mean().item(),
    )
