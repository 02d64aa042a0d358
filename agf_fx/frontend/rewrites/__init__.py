"""One spelling per operation: what takes the exported graph to the vocabulary, by kind of operation.

A rewrite takes a node of the exported graph, whose arguments are positional, and leaves the node's users with an equal
value. Where it cannot, it leaves the node as it is, which is then refused by name.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from agf_fx.frontend.rewrites.arithmetic import ARITHMETIC
from agf_fx.frontend.rewrites.attention import ATTENTION
from agf_fx.frontend.rewrites.convolution import CONVOLUTION
from agf_fx.frontend.rewrites.creation import CREATION
from agf_fx.frontend.rewrites.elementwise import ELEMENTWISE
from agf_fx.frontend.rewrites.movement import MOVEMENT
from agf_fx.frontend.rewrites.normalisation import NORMALISATION
from agf_fx.frontend.rewrites.pooling import POOLING
from agf_fx.frontend.rewrites.writing import WRITING

REWRITES: dict[Callable[..., object], Callable[[fx.Node], None]] = {
    **ARITHMETIC,
    **ATTENTION,
    **CONVOLUTION,
    **CREATION,
    **ELEMENTWISE,
    **MOVEMENT,
    **NORMALISATION,
    **POOLING,
    **WRITING,
}
