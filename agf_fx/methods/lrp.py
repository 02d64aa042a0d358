"""Layer-wise relevance propagation: relevance that starts as the target's logit, and tables of rules for it.

A composite is a sum of tables, the special ones first::

    def my_composite(options):
        table = RuleTable.of([(first_layer, lrp.flat()), (family(Family.CONVOLUTION), lrp.z_plus())])
        return relevance_method("my-composite", table + epsilon_table(options))
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from agf_fx.errors import OptionsError
from agf_fx.ir.vocabulary import Family
from agf_fx.methods.method import Method, Seed, Stream, Trace
from agf_fx.methods.needs import relevance_everywhere
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.table import RuleTable, fact, family, op, registered, scaled
from agf_fx.options import require_flag, require_number
from agf_fx.passes.norm_canoniser import fold_norms
from agf_fx.rules import lrp, propagation
from agf_fx.rules.merging import Merge, fan_out, total
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Division, Value
from agf_fx.rules.rule import Rule
from agf_fx.rules.site import RELEVANCE
from agf_fx.rules.targets import each_target, indicator

_PROPERTIES = Properties(gradients=False, attribution=True, class_specific=False, reaches_input=True)

relu = op(torch.ops.aten.relu.default)
linear_layer = family(Family.CONVOLUTION, Family.LINEAR)
first_layer = fact("input_layer")


@formula("Φ", "Φ = y_t at the target, 0 elsewhere")
def target_logit(y: Value, target: Value) -> Value:
    """The target's logit where it stands, 0 elsewhere: (K, N, classes)."""
    logits = each_target(y, target)
    return logits * indicator(logits, torch.unsqueeze(target, 2))


def at_images(trace: Trace) -> Value:
    """The relevance of the images, summed over channels: (K, N, *spatial)."""
    return trace.over_channels(trace.at_images(RELEVANCE))


def between_layers(shares: Rule, selections: Rule = lrp.winner) -> RuleTable:
    """The rules of everything but layers with weights.

    Args:
        shares: of sums and averages.
        selections: of maxima.
    """
    return RuleTable.of(
        [
            (fact("gate"), propagation.gated),
            (relu, propagation.pass_through),
            (family(Family.SELECTION), selections),
            (family(Family.AVERAGE, Family.PROPORTIONAL, Family.MERGE), shares),
            (scaled, propagation.scaled),
            (family(Family.PASS_THROUGH), propagation.pass_through),
            (family(Family.DATA_MOVEMENT), propagation.move_back),
            (family(Family.PRODUCT), propagation.bilinear),
            (family(Family.JOINT), propagation.by_influence),
            (family(Family.SOFT_MAXIMUM), propagation.by_weights),
            (family(Family.SOFTMAX), propagation.softmax),
        ]
    )


def epsilon_table(epsilon: float, *, bias: bool = True) -> RuleTable:
    """LRP-ε everywhere."""
    layers = RuleTable.of([(linear_layer, lrp.epsilon_rule(epsilon, bias=bias))])
    return registered() + layers + between_layers(lrp.norm(epsilon))


def relevance_method(
    name: str, table: RuleTable, merge: Merge = total, *, fold: bool = True, seed: Seed = target_logit
) -> Method:
    """A method whose relevance starts at the logits, and is propagated by ``table``.

    Args:
        name: what users call it.
        table: a rule for every call that relevance meets.
        merge: what becomes of relevance from several readers of a value.
        fold: whether batch norms become part of the layer in front of them, and their shift part of its bias.
        seed: what it starts as: the target's logit, if not given.
    """
    return Method(
        name=name,
        streams=(Stream(RELEVANCE, rules=table, seed=seed, merge=merge),),
        read_out=at_images,
        needs=(relevance_everywhere,),
        canonisers=(fold_norms,) if fold else (),
        scale="signed, in units of the logit: sums to it, but for what biases take",
        rounding="a larger epsilon keeps denominators further from 0",
    )


@dataclass(frozen=True)
class LRPOptions:
    """Options of LRP-ε and its composites.

    Attributes:
        epsilon: the stabiliser ε > 0 of denominators, which has their sign.
        bias: whether biases take their part of the relevance, as they do in the definition.

    Raises:
        OptionsError: a value has no meaning.
    """

    epsilon: float = lrp.EPSILON
    bias: bool = True

    def __post_init__(self) -> None:
        require_number("epsilon", self.epsilon, above=0)
        require_flag("bias", self.bias)


@dataclass(frozen=True)
class LRPTwoSidedOptions(LRPOptions):
    """Options of composites that tell positive from negative contributions.

    Attributes:
        epsilon: the stabiliser ε > 0 of denominators, which has their sign.
        bias: whether biases take their part of the relevance, as they do in the definition.
        lossless: whether outputs whose contributions all have one sign hand on all of their relevance by these; else
            they hand on α or -β times of it, as published: z⁺ drops it where nothing is positive.

    Raises:
        OptionsError: a value has no meaning.
    """

    lossless: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_flag("lossless", self.lossless)


def lrp_epsilon(options: LRPOptions) -> Method:
    """LRP-ε at every layer (Bach et al. 2015)."""
    return relevance_method("lrp-epsilon", epsilon_table(options.epsilon, bias=options.bias))


@dataclass(frozen=True)
class LRPZeroOptions:
    """Options of LRP-0.

    Attributes:
        bias: whether biases take their part of the relevance, as they do in the definition.

    Raises:
        OptionsError: it is neither True nor False.
    """

    bias: bool = True

    def __post_init__(self) -> None:
        require_flag("bias", self.bias)


def lrp_zero(options: LRPZeroOptions) -> Method:
    """LRP-0 at every layer (Bach et al. 2015): LRP-ε with exact divisions."""
    method = relevance_method("lrp-0", epsilon_table(0.0, bias=options.bias))
    return replace(method, rounding='method="lrp-epsilon" keeps denominators from 0')


def epsilon_plus_flat(options: LRPTwoSidedOptions) -> Method:
    """The composite of this name: ♭ at the first layer, z⁺ at convolutions, ε at linear layers."""
    special = [
        (first_layer, lrp.flat(options.epsilon)),
        (family(Family.CONVOLUTION), lrp.z_plus(options.epsilon, bias=options.bias, lossless=options.lossless)),
    ]
    table = RuleTable.of(special) + epsilon_table(options.epsilon, bias=options.bias)
    return relevance_method("epsilon-plus-flat", table)


@dataclass(frozen=True)
class LRPAlphaBetaOptions:
    """Options of LRP-αβ.

    Attributes:
        alpha: weight of what speaks for an output, 1 or more.
        beta: weight of what speaks against it; α - 1 if not given.
        epsilon: added to denominators whatever their sign, which must be above 0.
        bias: whether biases take their part of the relevance.
        lossless: whether outputs whose contributions all have one sign hand on all of their relevance by these; else
            they hand on α or -β times of it, as published.

    Raises:
        OptionsError: a value has no meaning, or α - β is not 1.
    """

    alpha: float = 1.0
    beta: float | None = None
    epsilon: float = 1e-9
    bias: bool = False
    lossless: bool = False

    def __post_init__(self) -> None:
        require_number("alpha", self.alpha, least=1)
        if self.beta is not None:
            require_number("beta", self.beta, least=0)
            if abs(self.alpha - self.beta - 1) > 1e-9:
                raise OptionsError(f"alpha - beta is {self.alpha - self.beta:g}; it must be 1, so that LRP conserves.")
        require_number("epsilon", self.epsilon, above=0)
        require_flag("bias", self.bias)
        require_flag("lossless", self.lossless)


def lrp_alpha_beta(options: LRPAlphaBetaOptions) -> Method:
    """LRP-αβ with the z^B rule at the input, as Gur, Ali and Wolf (2021) compare with: LRP α = 1, LRP_αβ α = 2."""
    return relevance_method(
        "lrp-alphabeta", alpha_beta_table(options), fan_out.divided(one_sided(options)), fold=options.bias
    )


def alpha_beta_table(options: LRPAlphaBetaOptions) -> RuleTable:
    """The rules of LRP-αβ in the published code of AGF."""
    division = one_sided(options)
    beta = options.alpha - 1 if options.beta is None else options.beta
    layers = lrp.alpha_beta(options.alpha, beta, division, bias=options.bias, lossless=options.lossless)
    between = between_layers(propagation.proportional, propagation.selective).divided(division)
    special = [(first_layer, propagation.z_box.divided(division)), (linear_layer, layers)]
    return registered() + RuleTable.of(special) + between


def one_sided(options: LRPAlphaBetaOptions) -> Division:
    """Division by b + ε, whatever the sign of b."""
    return Division("one-sided", options.epsilon)


ENTRIES = (
    Entry(
        name="lrp-epsilon",
        title="layer-wise relevance propagation, ε rule everywhere",
        citation="Bach, Binder, Montavon, Klauschen, Müller and Samek, PLoS ONE 2015",
        properties=_PROPERTIES,
        make=lrp_epsilon,
        options=LRPOptions,
    ),
    Entry(
        name="lrp-0",
        title="layer-wise relevance propagation without a stabiliser",
        citation="Bach, Binder, Montavon, Klauschen, Müller and Samek, PLoS ONE 2015",
        properties=_PROPERTIES,
        make=lrp_zero,
        options=LRPZeroOptions,
    ),
    Entry(
        name="epsilon-plus-flat",
        title="LRP composite: ♭ at the first layer, z⁺ at convolutions, ε at linear layers",
        citation="Kohlbrenner, Bauer, Nakajima, Binder, Samek and Lapuschkin, IJCNN 2020",
        properties=_PROPERTIES,
        make=epsilon_plus_flat,
        options=LRPTwoSidedOptions,
    ),
    Entry(
        name="lrp-alphabeta",
        title="LRP-αβ with the z^B rule at the input; α=1 is LRP in the paper on AGF, α=2 its LRP_αβ",
        citation="Bach et al., PLoS ONE 2015; input rule: Montavon et al., Pattern Recognition 2017",
        properties=_PROPERTIES,
        make=lrp_alpha_beta,
        options=LRPAlphaBetaOptions,
    ),
)
