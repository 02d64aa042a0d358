"""How deep in the network a call stands."""

from __future__ import annotations

from agf_fx.ir.facts import mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import depends_on_images, is_parametrised


def mark_depths(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark ``depth`` on every call: 0 at the first convolution or linear layer, 1 at the last, by the longest way.

    A layer with k layers on the longest way from the images to it has the depth k / K, where K is the largest k of the
    network; another call has the depth of the deepest layer in front of it, 0 if there is none.
    """
    before: dict = {}
    for node in canonical.calls:
        if depends_on_images(node):
            deepest = max((before.get(source, 0) for source in node.all_input_nodes), default=0)
            before[node] = deepest + is_parametrised(node)
    last = max(before.values(), default=0) - 1
    for node, count in before.items():
        mark(node, depth=max(0, count - 1) / last if last > 0 else 0.0)
    return canonical
