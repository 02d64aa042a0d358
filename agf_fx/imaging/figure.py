"""Figures of an explanation for notebooks, scripts and papers: image, map per target, one colour bar."""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from agf_fx.atomic import atomic_write
from agf_fx.errors import InputError, OptionsError
from agf_fx.imaging.forms import channels_first, grey, sheet
from agf_fx.imaging.pixels import display_pixels
from agf_fx.imaging.render import COLORMAP, diverging_colormap, symmetric_limit
from agf_fx.imaging.smooth import smoothed

MAX_ROWS = 16
"""Images drawn in one figure unless the caller asks for more; the figure says when there are others."""

CELL = 2.4  # inches
TITLE = 30  # letters in a line
_HEADLESS = frozenset({"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"})


class ExplanationLike(Protocol):
    """What is drawn: an explanation of N images for K targets each.

    Attributes:
        maps: (N, K, *spatial) float, signed relevance.
        target: (N, K) int64, class of each map.
        logits: (N, C) float, or (N, C, *positions).
        images: the batch that was explained, float: (N, 3, H, W), (N, C, L), (N, C, D, H, W) or another form.
    """

    maps: torch.Tensor
    target: torch.Tensor
    logits: torch.Tensor
    images: torch.Tensor


def figure(
    result: ExplanationLike,
    *,
    class_names: Sequence[str] | None = None,
    images: Any = None,
    indices: Sequence[int] | None = None,
    max_rows: int = MAX_ROWS,
    smooth: float = 0.0,
    clip: float = 1.0,
) -> Figure:
    """Draw an explanation: one row per image, with the image, its map for each target and one colour bar.

    Each map is divided by its own largest ``|relevance|`` and drawn on a diverging scale whose middle is
    zero: red speaks for the class, blue against it. The figure is made without pyplot, so no window opens
    and no backend is chosen. Maps of signals are drawn as lines, of volumes as a sheet of slices.

    Args:
        result: the explanation (see `ExplanationLike`).
        class_names: a name for each of the C classes; by default ``class 3``.
        images: pixels to display, as in `agf_fx.imaging.pixels.display_pixels`; by default ``result.images``,
            each stretched from its smallest to its largest value.
        indices: positions in the batch of the images to draw, in this order; by default the first ones.
        max_rows: without ``indices``, draw no more images than this; when there are others, the figure says so.
        smooth: blur each map by a Gaussian of this standard deviation in pixels; the figure says so. The maps in
            ``result`` stay as they are.
        clip: the share of a map's pixels that its scale reaches, such as 0.99, where a few large values would make
            all others pale; larger values have the colour of its end. The figure says so.

    Returns:
        A matplotlib `Figure`.

    Raises:
        InputError: ``images`` or ``indices`` do not fit the batch.
        OptionsError: ``class_names`` has not one name per class, ``max_rows`` is not positive, ``smooth`` is negative
            or too large for the maps, or ``clip`` is no share.
    """
    drawn = Figure(layout="constrained")
    _draw(drawn, result, class_names, images, indices, max_rows, smooth, clip)
    return drawn


def save(result: ExplanationLike, path: str | os.PathLike[str], *, dpi: float = 150, **options: Any) -> None:
    """Write the figure of an explanation to a file, whole or not at all.

    Args:
        result: the explanation.
        path: the file; its ending chooses the format (``.png``, ``.pdf``, ``.svg``, ``.jpg``, ...).
        dpi: dots per inch of pixel formats.
        **options: ``class_names``, ``images``, ``indices``, ``max_rows``, ``smooth``, ``clip`` as in `figure`.

    Raises:
        OptionsError: matplotlib does not write files with this ending; otherwise as `figure`.
        OSError: the file cannot be written.
    """
    write(figure(result, **options), path, dpi)


def write(drawn: Figure, path: str | os.PathLike[str], dpi: float) -> None:
    """Write a figure in the format that the name of the file ends in.

    Raises:
        OptionsError: matplotlib writes no files with this ending.
        OSError: the file cannot be written.
    """
    ending = os.path.splitext(os.fspath(path))[1].lstrip(".").lower()
    known = drawn.canvas.get_supported_filetypes()
    if ending not in known:
        raise OptionsError(f"{path}: a figure cannot be written as {ending!r}; end the name in {_list(known)}")
    with atomic_write(path) as file:
        drawn.savefig(file, format=ending, dpi=dpi)


def show(result: ExplanationLike, **options: Any) -> None:
    """Show the figure of an explanation in the notebook or in a window, through pyplot.

    Without a display (matplotlib's backend is one that only writes files) a warning says so and nothing is
    shown.

    Args:
        result: the explanation.
        **options: ``class_names``, ``images``, ``indices``, ``max_rows``, ``smooth``, ``clip`` as in `figure`, with its
            errors.
    """
    present(lambda drawn: _draw(drawn, result, **{**_DEFAULTS, **options}))


def present(draw: Callable[[Figure], None]) -> None:
    """Show what ``draw`` draws, in the notebook or in a window, or warn that there is no display."""
    from matplotlib import pyplot as plt

    drawn = plt.figure(layout="constrained")
    try:
        draw(drawn)
        if matplotlib.get_backend().lower() in _HEADLESS:
            warnings.warn("no display to show the figure on; write it with save('file.png')", stacklevel=4)
        else:
            plt.show()
    finally:
        plt.close(drawn)


_DEFAULTS: dict[str, Any] = {
    "class_names": None,
    "images": None,
    "indices": None,
    "max_rows": MAX_ROWS,
    "smooth": 0.0,
    "clip": 1.0,
}


def _draw(
    drawn: Figure,
    result: ExplanationLike,
    class_names: Sequence[str] | None,
    images: Any,
    indices: Sequence[int] | None,
    max_rows: int,
    smooth: float,
    clip: float,
) -> None:
    rows = chosen_rows(len(result.maps), indices, max_rows)
    maps = result.maps.detach().to("cpu", torch.float64).numpy()
    batch = channels_first(result.images, maps.shape[2:])
    flat = maps.ndim == 4
    pixels = display_pixels(batch, images) if flat else batch.detach().to("cpu", torch.float64).numpy()
    columns = 1 + maps.shape[1]
    drawn.set_size_inches(CELL * columns + 0.8, (CELL + 0.35) * len(rows) + 0.3)
    axes = drawn.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        draw_image(line[0], pixels[row], flat, f"image {row}")
        for axis, one, title in zip(line[1:], maps[row], class_titles(result, row, class_names), strict=True):
            draw_map(axis, one, title, smooth, clip)
    colour_bar(drawn, axes, smooth, clip)
    if indices is None and len(rows) < len(maps):
        drawn.supxlabel(f"the first {len(rows)} of {len(maps)} images (max_rows={max_rows})", fontsize=8)


def chosen_rows(count: int, indices: Sequence[int] | None, max_rows: int) -> list[int]:
    """Positions of the images to draw; `InputError` or `OptionsError` where there are none such."""
    if max_rows < 1:
        raise OptionsError(f"max_rows={max_rows} draws nothing; give 1 or more")
    chosen = list(range(min(count, max_rows))) if indices is None else [int(index) for index in indices]
    wrong = [index for index in chosen if not 0 <= index < count]
    if wrong or not chosen:
        raise InputError(f"indices {wrong or 'are empty'}: choose from the {count} images of the batch, 0..{count - 1}")
    return chosen


def _picture(axis: Axes, pixels: np.ndarray, title: str) -> None:
    """Show (H, W, 3) pixels as they are, or an (H, W) map with values in -1..1 in diverging colours."""
    axis.imshow(pixels, cmap=diverging_colormap(COLORMAP), vmin=-1, vmax=1, interpolation="nearest")
    axis.set_title(textwrap.fill(title, TITLE), fontsize=9)
    axis.set_axis_off()


def draw_image(axis: Axes, pixels: np.ndarray, flat: bool, title: str) -> None:
    """What was explained: pixels (H, W, 3), a signal (C, L) or a volume (C, ..., H, W)."""
    if flat:
        _picture(axis, pixels, title)
    elif pixels.ndim == 2:
        axis.plot(pixels.T, linewidth=0.8)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=6)
    else:
        _picture(axis, grey(sheet(pixels.mean(0))), title)


def draw_map(axis: Axes, relevance: np.ndarray, title: str, smooth: float, clip: float) -> None:
    """A map (L,), (H, W) or (..., H, W), divided by the end of its scale."""
    if relevance.ndim == 1:
        scaled = (relevance / symmetric_limit(relevance, clip)).clip(-1, 1)
        colours = diverging_colormap(COLORMAP)
        positions = np.arange(len(scaled))
        for part, end in ((scaled.clip(min=0), 1.0), (scaled.clip(max=0), 0.0)):
            axis.fill_between(positions, part, step="mid", color=colours(end))
        axis.axhline(0, color="black", linewidth=0.5)
        axis.set_ylim(-1.05, 1.05)
        axis.set_title(textwrap.fill(title, TITLE), fontsize=9)
        axis.tick_params(labelsize=6)
        return
    page = smoothed(relevance if relevance.ndim == 2 else sheet(relevance), smooth)
    _picture(axis, page / symmetric_limit(page, clip), title)


def class_titles(result: ExplanationLike, row: int, class_names: Sequence[str] | None) -> list[str]:
    """What the targets of an image are called, with their logits; `OptionsError` where there is not a name for each."""
    classes = result.logits.shape[1]
    if class_names is not None and len(class_names) != classes:
        raise OptionsError(f"{len(class_names)} class names for {classes} classes; give one per class")
    names = class_names or [f"class {index}" for index in range(classes)]
    dense = result.logits.dim() > 2
    means = result.logits[row].flatten(1).mean(1) if dense else result.logits[row]
    word = "mean logit" if dense else "logit"
    return [f"{names[index]} ({word} {means[index]:.2f})" for index in result.target[row].tolist()]


def colour_bar(drawn: Figure, axes: np.ndarray, smooth: float, clip: float) -> None:
    """The scale of all maps, beside them."""
    scale = ScalarMappable(Normalize(-1, 1), diverging_colormap(COLORMAP))
    bar = drawn.colorbar(scale, ax=axes, ticks=[-1, 0, 1], shrink=0.8 / max(1, len(axes) ** 0.5), aspect=25)
    word = "max" if clip == 1 else "end"
    bar.ax.set_yticklabels([f"-{word}", "0", f"+{word}"])
    end = "largest magnitude" if clip == 1 else f"{clip:g} quantile"
    note = f"; smoothed by {smooth:g} pixels" if smooth else ""
    bar.set_label(f"relevance (each map by its {end}{note})", fontsize=8)


def _list(endings: Any) -> str:
    return ", ".join(f".{ending}" for ending in sorted(endings))
