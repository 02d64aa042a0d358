"""What a method is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from agf_fx.errors import CaptureError, OptionsError
from agf_fx.ir.facts import UNCLEAR, facts
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import Family, family_of
from agf_fx.rules.numerics import Value
from agf_fx.rules.propagation import Rule


@dataclass(frozen=True)
class Method:
    """An explanation method, as data.

    Attributes:
        name: what users call it.
        initial_gradient: (logits, target (K, N)) -> gradient at the logits (K, N, classes).
        read_out: (images, relevance, gradient, rank of the images, their channel dimension or None) -> maps
            (K, N, *spatial).
        initial_relevance: the rule of the heads, which start the relevance; None for methods without relevance.
        roles: (name of a fact, rule) in order of precedence; the first fact that holds decides.
        families: the rule of every family.
        fan_out: (value, relevances handed back by its readers, dimensions of one sample) -> the value's relevance.
        minimum_classes: how many logits a model must have for the initial gradient to make sense.
        exact_division: divide without the published code's stabiliser.
        operations: rules of single operations, in place of their family's.
        channel_dim: the images' dimension that maps sum over, or None for none; ``"auto"``: as the model reads them.
    """

    name: str
    initial_gradient: Callable[[Value, Value], Value]
    read_out: Callable[[Value, Value, Value, int, int | None], Value]
    initial_relevance: Rule | None = None
    roles: tuple[tuple[str, Rule], ...] = ()
    families: Mapping[Family, Rule] = field(default_factory=dict)
    fan_out: Callable[[Value, list[Value], list[int]], Value] = lambda x, contributions, dims: contributions[0]
    minimum_classes: int = 1
    exact_division: bool = False
    operations: Mapping[Callable[..., Any], Rule] = field(default_factory=dict)
    channel_dim: int | str | None = "auto"

    def channels_of(self, canonical: CanonicalGraph) -> int | None:
        """The dimension of the images that maps sum over; None for none.

        Raises:
            CaptureError: several could hold channels, and the user has not said which.
            OptionsError: the images have no such dimension.
        """
        rank, images = canonical.image_type.rank, f"the images {canonical.image_type} of {canonical.name}"
        dim = facts(canonical.images).channel_dim if self.channel_dim == "auto" else self.channel_dim
        if dim == UNCLEAR and self.channel_dim == "auto":
            raise CaptureError(
                f"several dimensions of {images} could hold channels, over which a map sums. Say which: "
                "agf_fx.compile(model, channel_dim=1), or channel_dim=None for a map of every entry."
            )
        if dim is not None and not 0 < dim < rank:
            raise OptionsError(f"channel_dim is {dim} for {images}; give a dimension from 1 to {rank - 1}, or None.")
        return dim

    def rule_for(self, node: fx.Node) -> Rule | None:
        """The rule of a canonical call that has relevance or starts it: by role, else by operation, else by family."""
        if facts(node).head:
            return self.initial_relevance
        for role, rule in self.roles:
            if getattr(facts(node), role):
                return rule
        return self.operations.get(node.target) or self.families[family_of(node)]


def rule_name(rule: Rule | None) -> str:
    """The name under which a rule appears in graphs."""
    if rule is None:
        return ""
    return getattr(rule, "__name__", None) or getattr(rule, "func", rule).__name__
