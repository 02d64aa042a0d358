"""How far values are from the same values computed in float64."""

from __future__ import annotations

import torch
from torch import Tensor

TRUSTED = 1e-3
"""Relative difference from float64 up to which a map is what it seems: no eye sees it, and ranks of pixels hold."""


def relative_difference(maps: Tensor, exact: Tensor) -> Tensor:
    """max |map - exact| / max |exact| of each map: (N, K) float64 for maps (N, K, ...).

    0 where both are zero everywhere, and infinite where a map alone is not zero or not finite.
    """
    maps, exact = (values.to(torch.float64).flatten(2) for values in (maps, exact))
    difference, largest = (maps - exact).abs().amax(2), exact.abs().amax(2)
    relative = torch.where(difference == 0, 0.0, difference / largest)
    return torch.where(torch.isnan(relative), torch.inf, relative)
