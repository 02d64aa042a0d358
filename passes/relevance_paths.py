"""Where relevance passes: from the heads to the images, past gates."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.refusal import unsupported
from agf_fx.ir.vocabulary import Family, family_of, signals


def check_relevance_paths(canonical: CanonicalGraph) -> CanonicalGraph:
    """Refuse operations that relevance reaches and that have no relevance rule.

    Raises:
        UnsupportedOpError: naming the operation, its module and source line.
    """
    return _checked(canonical, set(), lambda node: facts(node).head)


def check_relevance_everywhere(canonical: CanonicalGraph) -> CanonicalGraph:
    """The same for relevance that starts at the logits.

    Raises:
        UnsupportedOpError: naming the operation, its module and source line.
    """
    return _checked(canonical, {canonical.logits}, lambda node: False)


def _checked(canonical: CanonicalGraph, reached: set[fx.Node], starts: Callable[[fx.Node], bool]) -> CanonicalGraph:
    for node in reversed(canonical.calls):
        if node in reached and family_of(node) is Family.GRADIENT_ONLY:
            raise unsupported(canonical, node, f"{node.target} has no relevance rule; only gradients pass through it")
        if node in reached or starts(node):
            reached.update(signal for signal in signals(node) if signal.name != facts(node).gate)
    return canonical
