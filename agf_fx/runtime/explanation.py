"""What an explainer returns."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from agf_fx.errors import OptionsError

_REPR_ROWS = 4
_PICTURE_ROWS, _PICTURE_TARGETS = 4, 5


class Channels(NamedTuple):
    """Channels of a layer, most relevant first.

    Attributes:
        channel: (N, K, C) int64, their numbers.
        relevance: (N, K, C), the sum over all positions of each.
    """

    channel: Tensor
    relevance: Tensor


@dataclass(frozen=True)
class Layer:
    """What is known of the output of a layer; None where it was not asked for.

    Attributes:
        relevance: (N, K, C, H, W).
        gradient: (N, K, C, H, W).
        value: (N, C, H, W).
        channel_dim: the dimension of ``value`` that holds channels; None where that is unclear.
    """

    relevance: Tensor | None = None
    gradient: Tensor | None = None
    value: Tensor | None = None
    channel_dim: int | None = None


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
        layers: module path -> the first quantity that ``explain`` was asked for at the output of that module, as the
            relevance (N, K, C, H, W); empty unless it was asked for ``layers``.
        quantities: module path -> all that it was asked for.
    """

    maps: Tensor
    target: Tensor
    logits: Tensor
    images: Tensor
    precision: Tensor | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    quantities: Mapping[str, Layer] = field(default_factory=dict)

    def channels(self, layer: str) -> Channels:
        """The channels of a layer, ranked by their relevance (or by their gradient, where that was asked for).

        Args:
            layer: path of a module that ``explain`` was asked for.

        Raises:
            OptionsError: it was not, or only for values, or its output has no channels.
        """
        known = self.quantities.get(layer)
        if known is None:
            asked = ", ".join(map(repr, self.layers)) or "none"
            raise OptionsError(f"no layer {layer!r} in this result; explain(..., layers=[{layer!r}]). It has {asked}.")
        values = known.gradient if known.relevance is None else known.relevance
        if values is None or known.channel_dim is None:
            raise OptionsError(f"layer {layer!r} has no relevance or gradient by channel here.")
        by_channel = values.movedim(known.channel_dim + 1, 2).flatten(3).sum(3) if values.dim() > 3 else values
        ranked = by_channel.sort(dim=2, descending=True, stable=True)
        return Channels(ranked.indices, ranked.values)

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

    def _repr_html_(self) -> str:
        """That picture with what it is, for notebooks that show HTML."""
        said = html.escape(repr(self))
        picture = base64.b64encode(self._repr_png_()).decode()
        return f'<div>{said}</div><img alt="{said}" src="data:image/png;base64,{picture}">'

    def show(self, **options: Any) -> Any:
        """Draw the images and their maps, with a colour bar centred at zero; see `agf_fx.imaging.figure.show`."""
        from agf_fx.imaging import figure

        return figure.show(self, **options)

    def save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write that figure to a file (PNG, PDF, SVG, …); see `agf_fx.imaging.figure.save`."""
        from agf_fx.imaging import figure

        figure.save(self, path, **options)
