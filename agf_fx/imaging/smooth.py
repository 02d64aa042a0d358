"""Blur maps for display. Numbers that leave the library are never smoothed, figures only when asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms.functional import gaussian_blur

from agf_fx.errors import OptionsError

_REACH = 3  # standard deviations on either side


def smoothed(relevance: np.ndarray, smooth: float) -> np.ndarray:
    """A map blurred by a Gaussian, with the map mirrored at its borders.

    Strided kernels leave a grid with a period of two pixels in maps (``docs/measurements.md``): a deviation of 1
    takes 98 % of it away.

    Args:
        relevance: (H, W) float.
        smooth: standard deviation in pixels of the map; 0 changes nothing.

    Returns:
        (H, W) float64, or ``relevance`` itself for 0.

    Raises:
        OptionsError: ``smooth`` is negative or not finite, or three deviations are more than the map's shorter side.
    """
    check_smooth(smooth, relevance.shape)
    if smooth == 0:
        return relevance
    reach = math.ceil(_REACH * smooth)
    pixels = torch.from_numpy(np.asarray(relevance, dtype=np.float64))
    return gaussian_blur(pixels[None], [2 * reach + 1] * 2, [float(smooth)] * 2)[0].numpy()


def check_smooth(smooth: float, size: Sequence[int] | None = None) -> None:
    """Refuse what `smoothed` refuses, for a map of ``size`` (H, W) where that is known (`OptionsError`)."""
    if not (math.isfinite(smooth) and smooth >= 0):
        raise OptionsError(f"smooth={smooth} is no standard deviation; give a number of pixels, 0 or more")
    if size is not None and math.ceil(_REACH * smooth) >= min(size):
        most = (min(size) - 1) / _REACH
        raise OptionsError(
            f"smooth={smooth} would blur a map of {min(size)} pixels to nothing; give {most:.2g} or less"
        )
