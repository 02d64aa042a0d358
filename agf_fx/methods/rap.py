"""Relative attributing propagation, as the paper on AGF compares with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from agf_fx.ir.facts import facts
from agf_fx.ir.vocabulary import Family
from agf_fx.methods.gradient import target_indicator
from agf_fx.methods.lrp import between_layers, first_layer, relevance_method, target_logit
from agf_fx.methods.method import Method
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.table import RuleTable, Where, family, puts_out_logits, registered
from agf_fx.options import require_number, require_one_of
from agf_fx.rules import propagation, rap
from agf_fx.rules.numerics import Division

STARTS = ("logit", "one")


@dataclass(frozen=True)
class RAPOptions:
    """Options of relative attributing propagation.

    Attributes:
        start: relevance starts as the target's ``"logit"``, or as ``"one"`` there; then the last layer has a rule of
            its own, as in the published code.
        epsilon: added to denominators whatever their sign, which must be above 0.

    Raises:
        OptionsError: a value has no meaning.
    """

    start: str = "logit"
    epsilon: float = 1e-9

    def __post_init__(self) -> None:
        require_one_of("start", self.start, STARTS)
        require_number("epsilon", self.epsilon, above=0)


def _is_pointwise(node: fx.Node) -> bool:
    zeros = sum(facts(node).kernel_padding[0]) if facts(node).kernel_padding else 0
    return node.args[1].meta["type"].shape[2] - zeros == 1


pointwise = family(Family.CONVOLUTION) & Where(_is_pointwise, "kernel of height 1")


def relative_attributing_propagation(options: RAPOptions) -> Method:
    """RAP (Nam et al. 2020) with the z^B rule at the input."""
    special = [
        (first_layer, propagation.z_box),
        (pointwise, rap.pointwise),
        (family(Family.CONVOLUTION), rap.convolution),
        (family(Family.LINEAR), rap.linear),
    ]
    if options.start == "one":
        special.insert(0, (family(Family.LINEAR) & puts_out_logits, rap.first))
    layers = RuleTable.of(special) + between_layers(propagation.proportional, propagation.selective)
    table = registered() + layers.divided(Division("one-sided", options.epsilon))
    seed = target_logit if options.start == "logit" else target_indicator
    return relevance_method("rap", table, fold=False, seed=seed)


ENTRIES = (
    Entry(
        name="rap",
        title="relative attributing propagation",
        citation="Nam, Gur, Choi, Wolf and Lee, AAAI 2020",
        properties=Properties(gradients=False, attribution=True, class_specific=False, reaches_input=True),
        make=relative_attributing_propagation,
        options=RAPOptions,
    ),
)
