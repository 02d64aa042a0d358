"""Heat maps that say nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from agf_fx.notices import warn


class DegenerateMapWarning(UserWarning):
    """A heat map says nothing: it is zero everywhere, or it or the logits contain NaN or infinite values."""


def warn_of_degenerate(maps: Tensor, logits: Tensor, blank: str = "", not_finite: str = "") -> None:
    """Warn of maps (N, K, H, W) that are zero everywhere or not finite, and of logits that are NaN; name their images.

    Args:
        maps: the maps.
        logits: (N, classes), or (N, classes, *positions).
        blank: why the method may find nothing, and what to do, if something else than in most.
        not_finite: why its maps may not be finite, and what to do, besides what most have in common.
    """
    widest = maps.dtype == torch.float64
    wider = "" if widest else ", or explain them in float64 (model.double(), images.double())"
    rounding = (
        "the images are constant, or the logits lie so far apart that the gradient of the score vanishes in "
        f"{maps.dtype}. Check the preprocessing{wider}"
    )
    flat, lost = maps.flatten(2), logits.flatten(1).isnan().any(1)
    unseen = ~torch.isfinite(flat).all(2)
    if bool((lost & ~unseen.any(1)).any()):
        images = torch.nonzero(lost & ~unseen.any(1)).flatten().tolist()
        warn(
            f"the network computes NaN for images {images}, so that their maps say nothing, though they are finite. "
            "explainer.diagnose(images) names the layer where that begins.",
            DegenerateMapWarning,
        )
    for bad, what in (
        (
            unseen,
            f"contain NaN or infinite values: {not_finite}the network or the method overflows {maps.dtype} on them, or "
            "the network computes NaN whatever it sees, as with a negative running variance. Check the preprocessing"
            f"{wider or ', or take another method'}",
        ),
        ((flat == 0).all(2) & ~lost[:, None], f"are zero everywhere: {blank or rounding}"),
    ):
        if bool(bad.any()):
            images = torch.nonzero(bad.any(1)).flatten().tolist()
            warn(f"maps of images {images} {what}.", DegenerateMapWarning)


def warn_outside(images: Tensor, bounds: tuple[float, float] | None) -> None:
    """Warn of images (N, ...) with values outside of what the method takes for their bounds, and name them."""
    if bounds is None:
        return
    low, high = bounds
    flat = images.flatten(1)
    least, greatest = flat.amin(1), flat.amax(1)
    outside = torch.nonzero((least < low) | (greatest > high)).flatten().tolist()
    if outside:
        warn(
            f"images {outside} reach from {float(least.min()):g} to {float(greatest.max()):g}, and the method takes "
            f"{low:g} and {high:g} for the bounds of every image; give options low and high that hold.",
            UserWarning,
        )
