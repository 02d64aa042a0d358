"""Layers whose inputs cannot be negative, by dataflow."""

from __future__ import annotations

from agf_fx.ir.facts import mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.signs import nonnegative
from agf_fx.ir.vocabulary import is_parametrised


def mark_nonnegative_inputs(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark ``nonnegative_input`` on every convolution and linear layer whose input has no entry below 0.

    What their rules make of the negative part of the input, which is 0 everywhere, need not be computed.
    """
    found = nonnegative(canonical.graph.nodes)
    for node in canonical.calls:
        if is_parametrised(node) and node.args[0] in found:
            mark(node, nonnegative_input=True)
    return canonical
