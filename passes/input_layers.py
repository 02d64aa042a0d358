"""Input layers: the parametrised layers that read the image, by dataflow."""

from __future__ import annotations

from torch import fx

from agf_fx.ir.facts import mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import is_parametrised, signals


def mark_input_layers(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark ``input_layer`` on every parametrised layer with no other one between it and the images.

    One that reads single positions, counted with the batch, is left out: the z^B rule needs the extremes of an image,
    and those of a single position, which are its own two values, leave nothing to divide by.
    """
    behind: set[fx.Node] = set()  # nodes with a parametrised layer at or before them
    for node in canonical.calls:
        if not node.meta["depends_on_images"]:
            continue
        later = any(signal in behind for signal in signals(node))
        if is_parametrised(node) and not later and node.args[0].meta["type"].batched:
            mark(node, input_layer=True)
        if is_parametrised(node) or later:
            behind.add(node)
    return canonical
