"""What an explainer returns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_REPR_ROWS = 4
_PICTURE_ROWS, _PICTURE_TARGETS = 4, 5


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        form = f"{str(self.maps.dtype).removeprefix('torch.')} {tuple(self.maps.shape)}"
        count, each = self.target.shape
        shown = ", ".join(str(row) for row in self.target[:_REPR_ROWS].tolist())
        more = ", ..." if count > _REPR_ROWS else ""
        checked = "" if self.precision is None else f", precision up to {float(self.precision.max()):.1g}"
        return f"Explanation({count} images, {each} targets each: [{shown}{more}]; maps {form}{checked})"

    def _repr_png_(self) -> bytes:
        """A picture for notebooks: the first images and targets."""
        import io

        from agf_fx.imaging import figure

        few = Explanation(self.maps[:, :_PICTURE_TARGETS], self.target[:, :_PICTURE_TARGETS], self.logits, self.images)
        file = io.BytesIO()
        figure.figure(few, max_rows=_PICTURE_ROWS).savefig(file, format="png", dpi=80)
        return file.getvalue()

    def show(self, **options: Any) -> Any:
        """Draw the images and their maps, with a colour bar centred at zero; see `agf_fx.imaging.figure.show`."""
        from agf_fx.imaging import figure

        return figure.show(self, **options)

    def save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write that figure to a file (PNG, PDF, SVG, …); see `agf_fx.imaging.figure.save`."""
        from agf_fx.imaging import figure

        figure.save(self, path, **options)
