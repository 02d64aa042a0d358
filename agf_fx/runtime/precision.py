"""How far maps are from the same maps computed in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from agf_fx.notices import warn

TRUSTED = 1e-3
"""Relative difference from float64 up to which a map is what it seems: no eye sees it, and ranks of pixels hold."""


class PrecisionWarning(UserWarning):
    """Rounding changes a heat map visibly: the network is badly conditioned at this image."""


def relative_difference(maps: Tensor, exact: Tensor) -> Tensor:
    """max |map - exact| / max |exact| of each map: (N, K) float64 for maps (N, K, ...).

    0 where both are zero everywhere, and infinite where a map alone is not zero or not finite.
    """
    maps, exact = (values.to(torch.float64).flatten(2) for values in (maps, exact))
    difference, largest = (maps - exact).abs().amax(2), exact.abs().amax(2)
    relative = torch.where(difference == 0, 0.0, difference / largest)
    return torch.where(torch.isnan(relative), torch.inf, relative)


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
