"""One spelling per function: what several operations compute together, in the form whose rule the method gives.

The rewrites of `agf_fx.frontend.rewrites` look at one operation at a time. Here are functions that a network can write
with quite different operations, and that must have one map: a sum as the sum of a stack, a ReLU as a choice, padding as
a step of its own, a linear layer as products and sums. Each pass looks at every call of the rewritten graph, in order,
and leaves the readers of what it recognises with an equal value. What no pass recognises keeps the rules of its
operations; docs/equal-functions.md says which functions have several rules by definition.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from agf_fx.frontend.rewrites.editing import erase_dead
from agf_fx.frontend.spellings.biases import take_biases_in
from agf_fx.frontend.spellings.chunks import join_chunks
from agf_fx.frontend.spellings.contractions import find_linear_layers
from agf_fx.frontend.spellings.detours import straighten
from agf_fx.frontend.spellings.numbers import collect_factors
from agf_fx.frontend.spellings.padding import fold_padding
from agf_fx.frontend.spellings.pieces import take_pieces
from agf_fx.frontend.spellings.probabilities import find_softmax
from agf_fx.frontend.spellings.rectifiers import find_rectifiers
from agf_fx.frontend.spellings.signs import take_signs_in
from agf_fx.frontend.spellings.stacks import take_stacks_apart

Spelling = Callable[[fx.Node], None]

# In order: the sum of a stack may be a ReLU (the larger of x and 0), and leaves factors to be collected.
SPELLINGS: tuple[Spelling, ...] = (
    take_pieces,
    take_stacks_apart,
    find_rectifiers,
    find_softmax,
    collect_factors,
    take_pieces,
    find_linear_layers,
    straighten,
    join_chunks,
    straighten,
    fold_padding,
    take_signs_in,
    take_biases_in,
    take_signs_in,
)


def spell_alike(graph: fx.Graph) -> None:
    """Rewrite ``graph``, whose calls are of the vocabulary, so that equal functions are equal calls."""
    for spelling in SPELLINGS:
        for node in list(graph.nodes):
            if node.op == "call_function" and node.users and node.meta["depends_on_images"]:
                spelling(node)
        erase_dead(graph)
