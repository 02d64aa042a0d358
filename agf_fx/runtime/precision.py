"""The warning of maps that are far from the same maps computed in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from agf_fx.inspect.precision import TRUSTED
from agf_fx.notices import warn


class PrecisionWarning(UserWarning):
    """Rounding changes a heat map visibly: the network is badly conditioned at this image."""


def warn_of_rounding(precision: Tensor, advice: str = "") -> None:
    """Warn of maps that are further than `TRUSTED` from float64's, and name their images.

    Args:
        precision: the differences, (N, K).
        advice: what else may be done, by the method.
    """
    bad = precision > TRUSTED
    if bool(bad.any()):
        images = torch.nonzero(bad.any(1)).flatten().tolist()
        further = f"; if many of them are, {advice}" if advice else ""
        warn(
            f"maps of images {images} are up to {float(precision.max()):.1g} of their largest value away from the same "
            f'maps in float64. Explain these images with precision="float64"{further}.',
            PrecisionWarning,
        )
