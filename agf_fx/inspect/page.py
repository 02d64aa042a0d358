"""An explanation graph as one page of HTML that needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import zlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from agf_fx.atomic import atomic_write
from agf_fx.errors import MissingDependencyError
from agf_fx.imaging.render import diverging_colormap, symmetric_limit
from agf_fx.inspect.conservation import ConservationReport, Flow
from agf_fx.inspect.difference import GraphDifference, LayerDifference
from agf_fx.inspect.layer_maps import LayerMaps, folded
from agf_fx.inspect.page_data import page_data
from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.views import READ_OUT
from agf_fx.methods.method import Method

_MAP_SIDE, _PHOTO_SIDE = 96, 320  # pixels, at most
_LEVELS = 127  # of either sign, in the palette of a map


def write(
    explanation: ExplanationGraph,
    path: str | os.PathLike[str],
    maps: LayerMaps | None = None,
    pixels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    method: Method | None = None,
    difference: GraphDifference | None = None,
    others: LayerMaps | None = None,
) -> None:
    """Write the page, which appears whole or not at all.

    Args:
        explanation: the graph.
        path: the file.
        maps: what an image looks like at every layer; None: the page has no pictures.
        pixels: (H, W, 3) uint8, the image as the network sees it.
        class_names: of the model, to name the target.
        title: of the page; by default the class of the model and the method.
        method: that the graph was made by: what is claimed of its rules is proved, and shown beside them.
        difference: from another graph to this one, to mark.
        others: what the image looks like by that other graph.

    Raises:
        MissingDependencyError: Jinja2 is not installed.
    """
    text = page(explanation, maps, pixels, class_names, title, method, difference, others)
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "replace"))


def page(
    explanation: ExplanationGraph,
    maps: LayerMaps | None = None,
    pixels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    method: Method | None = None,
    difference: GraphDifference | None = None,
    others: LayerMaps | None = None,
) -> str:
    """The text of the page; see `write`."""
    try:
        from jinja2 import Environment
        from markupsafe import Markup
    except ImportError as error:
        raise MissingDependencyError("pages need Jinja2: pip install jinja2") from error
    data, operations = page_data(explanation, method)
    if title is not None:
        data["title"] = title
    if maps is not None:
        _add_maps(data, explanation, maps, pixels, class_names)
    if difference is not None:
        _add_difference(data, explanation, difference, others)
    style, script = _part("page.css"), _part("page.js")
    template = Environment(autoescape=True).from_string(_part("page.html"))
    return template.render(
        title=data["title"],
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=Markup(embedded(data)),
        operations=base64.b64encode(zlib.compress(json.dumps(operations).encode(), 9)).decode(),
    )


def embedded(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element, or begin another."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return (resources.files("agf_fx.inspect") / "assets" / name).read_text("utf-8")


def _hash(text: str) -> str:
    """What a Content-Security-Policy names an inline script or style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _add_maps(
    data: dict[str, Any],
    explanation: ExplanationGraph,
    maps: LayerMaps,
    pixels: np.ndarray | None,
    class_names: Sequence[str] | None,
) -> None:
    """Pictures, sums, and what conservation says, in the rows of layers."""
    named = class_names[maps.target] if class_names and maps.target < len(class_names) else f"class {maps.target}"
    images = explanation.canonical.images.name
    data["picture"] = {
        "target": named,
        "logit": maps.logit,
        "quantity": maps.quantity,
        "why_none": maps.why_none,
        "photo": None if pixels is None else photo_address(pixels),
    }
    flows = {flow.node: flow for flow in maps.conservation.flows} if maps.conservation else {}
    cuts = _cuts(maps.conservation, images)
    for row in data["layers"]:
        calls = row["calls"] or ([images] if row["name"] == READ_OUT else [])
        drawn = _map_of(row, maps, images)
        if drawn is not None:
            row["map"] = _drawn(drawn, of_image=explanation.canonical.image_type.rank == 4)
        total = next((maps.totals[call] for call in reversed(calls) if call in maps.totals), None)
        if total is not None:
            row["total"] = total
        cut = next((cuts[call] for call in reversed(calls) if call in cuts), None)
        if cut is not None:
            row["cut"] = cut
        found = [flows[call] for call in row["calls"] if call in flows]
        if found:
            row["flow"] = _flow(found)


def _add_difference(
    data: dict[str, Any], explanation: ExplanationGraph, difference: GraphDifference, others: LayerMaps | None
) -> None:
    """What differs, in the rows of layers, and, with an image, the maps of the other graph beside them."""
    differing = {id(layer) for layer in difference.differing()}
    known = {layer.name: layer for layer in difference.layers}
    for row in data["layers"]:
        layer = known.pop(row["name"], None)
        if layer is not None:
            row["difference"] = _difference(layer, id(layer) in differing)
        drawn = None if others is None else _map_of(row, others, explanation.canonical.images.name)
        if drawn is not None:
            row["other"] = _drawn(drawn, of_image=explanation.canonical.image_type.rank == 4)
    data["against"] = {
        "titles": difference.titles,
        "said": [
            *([f"Values that differ: {', '.join(difference.inputs)}"] if difference.inputs else []),
            *(difference.departures.lines() if difference.departures else ()),
        ],
        "absent": [layer.name for layer in known.values()],
    }


def _difference(layer: LayerDifference, differs: bool) -> dict[str, Any]:
    named = [
        [change.kind, change.stream, *(view.call if view else "" for view in (change.before, change.after))]
        for change in layer.changes
        if change.loud
    ]
    found: dict[str, Any] = {"differs": differs, "rules": layer.rules, "nodes": layer.nodes, "changes": named}
    found["counts"] = dict(layer.counts.most_common())
    if layer.departure is not None:
        found |= {"apart": layer.departure.difference, "cosine": layer.departure.cosine}
    return found


def _map_of(row: dict[str, Any], maps: LayerMaps, images: str) -> np.ndarray | None:
    """The map at the output of a row; the method's own at the images."""
    if row["name"] == READ_OUT:
        return np.atleast_2d(maps.image) if maps.image.ndim in (1, 2) else maps.maps.get(images)
    return next((maps.maps[call] for call in reversed(row["calls"]) if call in maps.maps), None)


def _drawn(relevance: np.ndarray, of_image: bool) -> dict[str, Any]:
    """A map with what is said of it; tokens of an image in their square."""
    shape, said = relevance.shape, ""
    if of_image and shape[0] == 1:
        square = folded(relevance)
        if square is not None:
            relevance, said = square, f" of {shape[1]} tokens"
    shown = {"src": map_address(relevance), "shape": list(relevance.shape)}
    return {**shown, "limit": symmetric_limit(relevance), "said": said}


def _cuts(report: ConservationReport | None, images: str) -> dict[str, float]:
    """Call -> the sum of relevance over all branches side by side, before the call hands its part on."""
    if report is None:
        return {}
    running, found = float(report.initial.flatten()[0]), {}
    for flow in report.flows:
        found[flow.node] = running
        running += float(flow.change.flatten()[0])
    return {**found, images: float(report.final.flatten()[0])}


def _flow(flows: Sequence[Flow]) -> dict[str, Any]:
    """What calls of one row receive, hand on, and add, of the one image and target; the last call receives first."""
    return {
        "received": float(flows[-1].received.flatten()[0]),
        "handed": float(flows[0].handed_on.flatten()[0]),
        "change": float(sum(flow.change.flatten()[0] for flow in flows)),
        "absolute": float(max(flow.absolute.flatten()[0] for flow in flows)),
        "promise": flows[-1].promise,
    }


def map_address(relevance: np.ndarray) -> str:
    """A map (H, W) as a small embedded PNG on a scale of its own: red above zero, blue below, zero neutral.

    Larger maps are shrunk, each pixel to the mean of what it covers.
    """
    limit = symmetric_limit(relevance)
    height, width = relevance.shape
    scale = min(1.0, _MAP_SIDE / max(height, width))
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        shrunk = Image.fromarray(relevance.astype(np.float32)).resize(size, Image.Resampling.BOX)
        relevance = np.asarray(shrunk, dtype=np.float64)
        limit = symmetric_limit(relevance)
    levels = np.clip(np.rint(relevance / limit * _LEVELS), -_LEVELS, _LEVELS) + _LEVELS
    picture = Image.fromarray(levels.astype(np.uint8), "P")
    picture.putpalette(diverging_colormap()(np.linspace(0, 1, 2 * _LEVELS + 1), bytes=True)[:, :3].tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def photo_address(pixels: np.ndarray) -> str:
    """A picture (H, W, 3) as an embedded JPEG, at most 320 pixels wide and high."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
