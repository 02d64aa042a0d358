"""What an explainer returns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Explanation:
    """Heat maps of N images for K targets each.

    Attributes:
        maps: (N, K, H, W), signed relevance without unit: positive speaks for the target, negative against it.
        target: (N, K) int64, the class of each map.
        logits: (N, classes), the model's output.
        images: (N, C, H, W), the batch that was explained.
        precision: (N, K) float64, how far each map is from the same map in float64, max |a - b| / max |b|; None unless
            ``explain`` was asked to ``check``.
    """

    maps: Tensor
    target: Tensor
    logits: Tensor
    images: Tensor
    precision: Tensor | None = None

    def show(self, **options: Any) -> Any:
        """Draw the images and their maps, with a colour bar centred at zero; see `agf_fx.imaging.figure.show`."""
        from agf_fx.imaging import figure

        return figure.show(self, **options)

    def save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write that figure to a file (PNG, PDF, SVG, …); see `agf_fx.imaging.figure.save`."""
        from agf_fx.imaging import figure

        figure.save(self, path, **options)
