"""Draw signed relevance maps as pixels: overlays and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import Colormap
from PIL import Image, ImageDraw, ImageFont

from agf_fx.errors import InputError, NonFiniteInputError, OptionsError
from agf_fx.imaging.smooth import smoothed

COLORMAP = "RdBu_r"
"""ColorBrewer's red-blue scale: red speaks for the class, blue against it; readable by the colour-blind."""

_GAP = 8
_MARGIN = 12
_TEXT_SIZE = 15


class Panel(NamedTuple):
    """One captioned picture of a contact sheet."""

    caption: str
    picture: Image.Image


@cache
def diverging_colormap(name: str = COLORMAP) -> Colormap:
    """A colormap of matplotlib's registry with an odd number of entries, so that zero is the exact middle.

    Raises:
        OptionsError: matplotlib has no such colormap.
    """
    if name not in matplotlib.colormaps:
        raise OptionsError(f"matplotlib has no colormap {name!r}; try {COLORMAP}, bwr, seismic or coolwarm")
    return matplotlib.colormaps[name].resampled(257)


def symmetric_limit(relevance: np.ndarray, clip: float = 1.0) -> float:
    """The end of a map's zero-centred scale: its largest ``|value|``; 1 for a map that is zero everywhere.

    Args:
        relevance: float, of any shape.
        clip: the share of the pixels whose ``|value|`` is on the scale: the quantile that is its end, so that a few
            large values do not make all others pale. The largest value where that quantile is 0.

    Raises:
        NonFiniteInputError: the map holds NaN or infinite values.
        OptionsError: ``clip`` is no share.
    """
    check_clip(clip)
    sizes = np.abs(relevance)
    limit = float(sizes.max(initial=0.0))
    if not math.isfinite(limit):
        raise NonFiniteInputError("the map has NaN or infinite values; check the network and its input")
    if clip < 1 and limit:
        limit = float(np.quantile(sizes, clip)) or limit
    return limit or 1.0


def check_clip(clip: float) -> None:
    """Refuse what is no share of pixels (`OptionsError`)."""
    if isinstance(clip, bool) or not isinstance(clip, int | float) or not 0 < clip <= 1:
        raise OptionsError(f"clip={clip!r} is no share of the pixels; give a number above 0, up to 1, such as 0.99")


def colorize(relevance: np.ndarray, *, limit: float | None = None, colormap: str = COLORMAP) -> np.ndarray:
    """Colours of a signed map on a scale from ``-limit`` to ``limit`` whose middle, zero, is neutral.

    Args:
        relevance: (H, W) float.
        limit: end of the scale; by default the map's largest ``|value|``.
        colormap: name of a diverging colormap in matplotlib's registry.

    Returns:
        (H, W, 3) uint8. A map of zeros is neutral everywhere.
    """
    limit = symmetric_limit(relevance) if limit is None else limit
    position = 0.5 + 0.5 * np.asarray(relevance, dtype=np.float64) / limit
    return diverging_colormap(colormap)(position, bytes=True)[..., :3]


def overlay(
    shown: np.ndarray,
    relevance: np.ndarray,
    *,
    limit: float | None = None,
    smooth: float = 0.0,
    clip: float = 1.0,
) -> Image.Image:
    """The original picture with its map beside it: `picture_panel` and `map_panel` in one picture.

    Args:
        shown: (H, W, 3) uint8, the pixels the network saw.
        relevance: (H, W) float, signed.
        limit: end of the colour scale; by default the map's largest ``|value|``.
        smooth, clip: as in `map_panel`.

    Returns:
        Pillow image in mode ``"RGB"``.

    Raises:
        InputError: the shapes or types do not fit together.
        NonFiniteInputError: the map holds NaN or infinite values.
        OptionsError: ``smooth`` is negative or too large for the map, or ``clip`` no share.
    """
    heat = map_panel(shown, relevance, limit=limit, smooth=smooth, clip=clip)
    return side_by_side([picture_panel(shown), heat])


def picture_panel(shown: np.ndarray, *, min_side: int = 256) -> Image.Image:
    """The picture, enlarged (bicubic) by a whole number until its shorter side has ``min_side`` pixels.

    Args:
        shown: (H, W, 3) uint8.
        min_side: shorter side of the panel in pixels, at least.

    Returns:
        Pillow image in mode ``"RGB"``.

    Raises:
        InputError: ``shown`` is not such a picture.
    """
    shown = np.asarray(shown)
    if shown.dtype != np.uint8 or shown.ndim != 3 or shown.shape[2] != 3 or not shown.size:
        raise InputError(f"a picture is uint8 (H, W, 3), not {shown.dtype} {shown.shape}; convert it first")
    return Image.fromarray(shown).resize(_enlarged(shown, min_side), Image.Resampling.BICUBIC)


def map_panel(
    shown: np.ndarray,
    relevance: np.ndarray,
    *,
    limit: float | None = None,
    backdrop: float = 0.2,
    min_side: int = 256,
    colormap: str = COLORMAP,
    smooth: float = 0.0,
    clip: float = 1.0,
) -> Image.Image:
    """The map in diverging colours, zero neutral, over a pale grey copy of the picture.

    The panel has the size of `picture_panel`. Each pixel of the map becomes a square of one colour (nearest),
    so that relevance is seen as it was computed.

    Args:
        shown: (H, W, 3) uint8, the pixels the network saw.
        relevance: (H, W) float, signed.
        limit: end of the colour scale; by default as ``clip`` says.
        backdrop: how strongly the grey copy shows through, from 0 (only the map) to 1.
        min_side: shorter side of the panel in pixels, at least.
        colormap: name of a diverging colormap in matplotlib's registry.
        smooth: blur the map by a Gaussian of this standard deviation in pixels before it is drawn.
        clip: the share of the pixels that the scale reaches; see `symmetric_limit`.

    Returns:
        Pillow image in mode ``"RGB"``.

    Raises:
        InputError: the shapes or types do not fit together.
        NonFiniteInputError: the map holds NaN or infinite values.
        OptionsError: the colormap is unknown, ``smooth`` is negative or too large for the map, or ``clip`` no share.
    """
    picture, relevance = picture_panel(shown, min_side=min_side), np.asarray(relevance)
    if relevance.shape != np.shape(shown)[:2]:
        raise InputError(f"the map is {relevance.shape}, the picture {np.shape(shown)[:2]}; draw one map (H, W) of it")
    relevance = smoothed(relevance, smooth)
    limit = symmetric_limit(relevance, clip) if limit is None else limit
    colours = Image.fromarray(colorize(relevance, limit=limit, colormap=colormap))
    return _over(picture, colours.resize(picture.size, Image.Resampling.NEAREST), backdrop)


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in one row, aligned at the top, with a white gap between them."""
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + _GAP
    return sheet


def contact_sheet(rows: Sequence[Sequence[Panel]]) -> Image.Image:
    """One sheet of captioned pictures, a row for each sequence of panels.

    A caption that is wider than its picture is shortened with an ellipsis.

    Args:
        rows: the panels of each row; rows may differ in length.

    Returns:
        Pillow image in mode ``"RGB"``.

    Raises:
        InputError: there is nothing to draw.
    """
    strips = [side_by_side([_captioned(panel) for panel in row]) for row in rows if row]
    if not strips:
        raise InputError("a contact sheet needs at least one picture; pass a row with a Panel in it")
    width = max(strip.width for strip in strips) + 2 * _MARGIN
    height = sum(strip.height + _GAP for strip in strips) - _GAP + 2 * _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    top = _MARGIN
    for strip in strips:
        sheet.paste(strip, (_MARGIN, top))
        top += strip.height + _GAP
    return sheet


def _enlarged(shown: np.ndarray, min_side: int) -> tuple[int, int]:
    height, width = shown.shape[:2]
    scale = max(1, math.ceil(min_side / min(height, width)))
    return width * scale, height * scale


def _over(picture: Image.Image, colours: Image.Image, backdrop: float) -> Image.Image:
    """Multiply the colours with a grey copy of the picture, lightened until ``1 - backdrop`` is its black."""
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None] / 255.0
    blended = np.asarray(colours) * (1.0 - backdrop + backdrop * grey)
    return Image.fromarray(np.rint(blended).astype(np.uint8))


def _captioned(panel: Panel) -> Image.Image:
    font = _font()
    height = _TEXT_SIZE + 7
    framed = Image.new("RGB", (panel.picture.width, panel.picture.height + height), "white")
    framed.paste(panel.picture, (0, height))
    caption = _fit(panel.caption, panel.picture.width, font)
    ImageDraw.Draw(framed).text((1, 1), caption, fill=(40, 40, 40), font=font)
    return framed


def _fit(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and covers most alphabets."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), _TEXT_SIZE)
