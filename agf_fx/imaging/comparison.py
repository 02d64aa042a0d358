"""Sheets that compare methods: one row for each class of an image, one column for each method."""

from __future__ import annotations

import base64
import functools
import html
import io
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from agf_fx.atomic import atomic_write
from agf_fx.errors import InputError, OptionsError
from agf_fx.imaging import figure as single
from agf_fx.imaging.figure import ExplanationLike
from agf_fx.imaging.forms import channels_first
from agf_fx.imaging.pixels import display_pixels
from agf_fx.imaging.render import map_panel, picture_panel

MAX_ROWS = 16
"""Rows drawn in one figure unless the caller asks for more; the figure says when there are others."""


class ComparisonLike(Protocol):
    """What is drawn; see `agf_fx.Comparison`."""

    explanations: Mapping[str, ExplanationLike]
    failed: Mapping[str, Exception]
    titles: Mapping[str, str]
    target: torch.Tensor
    logits: torch.Tensor
    images: torch.Tensor


def figure(
    result: ComparisonLike,
    *,
    class_names: Sequence[str] | None = None,
    images: Any = None,
    indices: Sequence[int] | None = None,
    max_rows: int = MAX_ROWS,
    smooth: float = 0.0,
    clip: float = 1.0,
) -> Figure:
    """Draw a comparison: for each image and class a row, with the image and its map by each method.

    Each map is divided by its own largest ``|relevance|``, as in `agf_fx.imaging.figure.figure`.

    Args:
        result: the comparison (see `ComparisonLike`).
        class_names: a name for each of the C classes; by default ``class 3``.
        images: pixels to display, as in `agf_fx.imaging.pixels.display_pixels`; by default those explained, stretched.
        indices: positions in the batch of the images to draw, in this order; by default the first ones.
        max_rows: draw no more rows than this, nor a part of an image; at least one image is drawn.
        smooth: blur each map by a Gaussian of this standard deviation in pixels.
        clip: the share of a map's pixels that its scale reaches: 0.99 shows maps whose relevance is at a few pixels.

    Raises:
        InputError: ``images`` or ``indices`` do not fit the batch.
        OptionsError: ``class_names`` has not one name per class, ``max_rows`` is not positive, ``smooth`` is negative
            or too large for the maps, or ``clip`` is no share.
    """
    drawn = Figure(layout="constrained")
    _draw(drawn, result, class_names, images, indices, max_rows, smooth, clip)
    return drawn


def show(result: ComparisonLike, **options: Any) -> None:
    """Show that figure in the notebook or in a window; see `figure` for the options."""
    settings = {"class_names": None, "images": None, "indices": None, "max_rows": MAX_ROWS} | options
    settings = {"smooth": 0.0, "clip": 1.0} | settings
    single.present(lambda drawn: _draw(drawn, result, **settings))


def save(result: ComparisonLike, path: str | os.PathLike[str], *, dpi: float = 150, **options: Any) -> None:
    """Write a comparison to a file, whole or not at all.

    Args:
        result: the comparison.
        path: the file: ``.html`` for `page`, another ending for a figure in that format.
        dpi: dots per inch of pixel formats.
        **options: as in `figure` or `page`.

    Raises:
        OptionsError: there is no such format; otherwise as `figure` or `page`.
        OSError: the file cannot be written.
    """
    if os.path.splitext(os.fspath(path))[1].lower() in (".html", ".htm"):
        text = page(result, **options)
        with atomic_write(path) as file:
            file.write(text.encode())
    else:
        single.write(figure(result, **options), path, dpi)


def page(
    result: ComparisonLike,
    *,
    class_names: Sequence[str] | None = None,
    images: Any = None,
    indices: Sequence[int] | None = None,
    smooth: float = 0.0,
    clip: float = 1.0,
    title: str = "Methods compared",
    names: Sequence[str] | None = None,
) -> str:
    """A page of HTML that needs no other file: the figure's rows for every image, with what each method is.

    Args:
        result: the comparison, of images (N, 3, H, W) or (N, 1, H, W).
        class_names: a name for each of the C classes; by default ``class 3``.
        images: pixels to display, as in `agf_fx.imaging.pixels.display_pixels`.
        indices: positions in the batch of the images to show; by default all.
        smooth: blur each map by a Gaussian of this standard deviation in pixels.
        clip: the share of a map's pixels that its scale reaches.
        title: of the page.
        names: of the images, one each; by default ``image 0``.

    Raises:
        InputError: the images are no pictures, or ``images``, ``indices`` or ``names`` do not fit them.
        OptionsError: as `figure`.
    """
    if next(iter(result.explanations.values())).maps.dim() != 4:
        raise InputError("a page shows pictures; save the comparison of signals or volumes as .png or .pdf.")
    count = len(result.target)
    if names is not None and len(names) != count:
        raise InputError(f"{len(names)} names for {count} images; give one each.")
    rows = single.chosen_rows(count, indices, count)
    pixels = display_pixels(channels_first(result.images, _spatial(result)), images)
    heads = "".join(
        f"<th scope=col>{_text(label)}{_hint(result.titles.get(label, ''))}</th>" for label in _labels(result)
    )
    body = []
    for row in rows:
        picture = _embedded(picture_panel(pixels[row]), names[row] if names else f"image {row}")
        titles = single.class_titles(result, row, class_names)
        for position, name in enumerate(titles):
            cells = [] if position else [f"<td rowspan={len(titles)}>{picture}</td>"]
            cells += [f"<th scope=row>{_text(name)}</th>"]
            for label in _labels(result):
                draw = functools.partial(map_panel, pixels[row], smooth=smooth, clip=clip)
                cells.append(_cell(result, label, draw, row, position, name))
            body.append(f"<tr>{''.join(cells)}</tr>")
    end = "its largest magnitude" if clip == 1 else f"the {clip:g} quantile of its magnitudes"
    return _PAGE.format(title=_text(title), heads=heads, rows="\n".join(body), end=end)


def _draw(
    drawn: Figure,
    result: ComparisonLike,
    class_names: Sequence[str] | None,
    images: Any,
    indices: Sequence[int] | None,
    max_rows: int,
    smooth: float,
    clip: float,
) -> None:
    count, targets = result.target.shape
    if max_rows < 1:
        raise OptionsError(f"max_rows={max_rows} draws nothing; give 1 or more")
    rows = single.chosen_rows(count, indices, max(1, max_rows // targets))
    batch, flat = channels_first(result.images, _spatial(result)), len(_spatial(result)) == 2
    pixels = display_pixels(batch, images) if flat else batch.detach().to("cpu", torch.float64).numpy()
    labels = _labels(result)
    drawn.set_size_inches(single.CELL * (1 + len(labels)) + 0.8, (single.CELL + 0.35) * len(rows) * targets + 0.3)
    axes = drawn.subplots(len(rows) * targets, 1 + len(labels), squeeze=False)
    lines = [(row, position) for row in rows for position in range(targets)]
    for line, (row, position) in zip(axes, lines, strict=True):
        single.draw_image(line[0], pixels[row], flat, single.class_titles(result, row, class_names)[position])
        for axis, label in zip(line[1:], labels, strict=True):
            if label in result.failed:
                _say_why(axis, label, result.failed[label])
            else:
                relevance = _relevance(result, label, row, position)
                single.draw_map(axis, relevance, label, smooth, clip)
    single.colour_bar(drawn, axes, smooth, clip)
    if indices is None and len(rows) < count:
        drawn.supxlabel(f"the first {len(rows)} of {count} images (max_rows={max_rows})", fontsize=8)


def _labels(result: ComparisonLike) -> list[str]:
    """All methods, as they were asked for."""
    known = {*result.explanations, *result.failed}
    return [label for label in dict.fromkeys((*result.titles, *result.explanations, *result.failed)) if label in known]


def _spatial(result: ComparisonLike) -> tuple[int, ...]:
    return tuple(next(iter(result.explanations.values())).maps.shape[2:])


def _relevance(result: ComparisonLike, label: str, row: int, position: int) -> np.ndarray:
    return result.explanations[label].maps[row, position].detach().to("cpu", torch.float64).numpy()


def _say_why(axis: Any, label: str, error: Exception) -> None:
    axis.set_title(textwrap.fill(label, single.TITLE), fontsize=9)
    axis.text(0.5, 0.5, textwrap.fill(str(error), 34), ha="center", va="center", fontsize=6, wrap=True)
    axis.set_box_aspect(1)
    axis.set_axis_off()


def _cell(
    result: ComparisonLike,
    label: str,
    draw: Callable[[np.ndarray], Image.Image],
    row: int,
    position: int,
    name: str,
) -> str:
    if label in result.failed:
        return f"<td class=failed>{_text(str(result.failed[label]))}</td>"
    relevance = _relevance(result, label, row, position)
    picture = _embedded(draw(relevance), f"{label} of {name}")
    positive, negative = relevance.clip(min=0).sum(), relevance.clip(max=0).sum()
    return f"<td>{picture}<span>+{positive:.3g} {negative:.3g}</span></td>"


def _embedded(picture: Image.Image, said: str) -> str:
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{_text(said)}" title="{_text(said)}" src="data:image/png;base64,{data}">'


def _hint(title: str) -> str:
    return f"<small>{_text(title)}</small>" if title else ""


def _text(value: str) -> str:
    return html.escape(value, quote=True)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif; }}
body {{ margin: 1rem; }}
main {{ overflow-x: auto; }}
table {{ border-collapse: separate; border-spacing: 6px; }}
th, td {{ text-align: left; vertical-align: top; font-weight: normal; width: 224px; min-width: 120px; }}
thead th {{ position: sticky; top: 0; background: Canvas; font-weight: 600; }}
small, span {{ display: block; font-size: 12px; font-weight: normal; opacity: .75; }}
img {{ width: 100%; height: auto; display: block; }}
.failed {{ font-size: 12px; opacity: .75; border: 1px dashed; padding: 6px; overflow-wrap: anywhere; }}
</style>
<h1>{title}</h1>
<p>Red speaks for the class, blue against it; each map is drawn on a scale of its own, from minus to plus
{end}. Below each map: the sums of its values above and below zero, in a unit that only maps of one
method share.</p>
<main><table>
<thead><tr><td></td><td></td>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table></main>
</html>
"""
