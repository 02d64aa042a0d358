"""Input layers: the parametrised layers that read the image, by dataflow."""

from __future__ import annotations

from torch import fx

from agf_fx.ir.facts import mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import is_parametrised, signals


def mark_input_layers(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark ``input_layer`` on every parametrised layer with no other one between it and the images."""
    behind: set[fx.Node] = set()  # nodes with a parametrised layer at or before them
    for node in canonical.calls:
        if not node.meta["depends_on_images"]:
            continue
        later = any(signal in behind for signal in signals(node))
        if is_parametrised(node) and not later:
            mark(node, input_layer=True)
        if is_parametrised(node) or later:
            behind.add(node)
    return canonical
