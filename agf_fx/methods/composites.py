"""LRP composites, named and defined as Zennit's, so that users can compare: special tables before that of LRP-ε."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from agf_fx.errors import CaptureError, OptionsError
from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.text import op_name
from agf_fx.ir.vocabulary import Family, family_of, signals
from agf_fx.methods.contrast import CONTRAST
from agf_fx.methods.gradient import target_indicator
from agf_fx.methods.lrp import (
    LRPOptions,
    LRPTwoSidedOptions,
    at_images,
    between_layers,
    epsilon_table,
    first_layer,
    linear_layer,
    relevance_method,
)
from agf_fx.methods.method import Method, Stream, Trace
from agf_fx.methods.needs import heads, relevance_everywhere
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.table import RuleTable, Where, fact, family, registered
from agf_fx.options import require_flag, require_number, require_one_of
from agf_fx.passes.norm_canoniser import fold_norms
from agf_fx.rules import lrp
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value
from agf_fx.rules.rule import Rule
from agf_fx.rules.site import RELEVANCE

_PROPERTIES = Properties(gradients=False, attribution=True, class_specific=False, reaches_input=True)
_KOHLBRENNER = "Kohlbrenner, Bauer, Nakajima, Binder, Samek and Lapuschkin, IJCNN 2020"

convolution = family(Family.CONVOLUTION)

Special = Sequence[tuple[Where, Rule]]


@dataclass(frozen=True)
class EpsilonGammaBoxOptions(LRPOptions):
    """Options of the composite of z^B, γ and ε.

    Attributes:
        epsilon: the stabiliser ε > 0 of denominators, which has their sign.
        bias: whether biases take their part of the relevance, as they do in the definition.
        gamma: how much more contributions of the output's sign count at convolutions, 0 or more.
        low: the least value of the images, as the model takes them.
        high: the greatest.
        bounds: whose least and greatest value these are: of the ``"images"``, which a model that computes with them
            before its first layer, as to normalise them, refuses; or of all that the ``"first-layer"`` reads.

    Raises:
        OptionsError: a value has no meaning.
    """

    gamma: float = 0.25
    low: float = -3.0
    high: float = 3.0
    bounds: str = "images"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("gamma", self.gamma, least=0)
        require_number("low", self.low)
        require_number("high", self.high, above=self.low)
        require_one_of("bounds", self.bounds, ("images", "first-layer"))


@dataclass(frozen=True)
class GammaOptions(LRPOptions):
    """Options of LRP-γ.

    Attributes:
        epsilon: the stabiliser ε > 0 of denominators, which has their sign.
        bias: whether biases take their part of the relevance, as they do in the definition.
        gamma: how much more contributions of the output's sign count, 0 or more.

    Raises:
        OptionsError: a value has no meaning.
    """

    gamma: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("gamma", self.gamma, least=0)


def _composite(name: str, special: Callable[[LRPOptions], Special]) -> Callable[[LRPOptions], Method]:
    """A method: a special table before that of LRP-ε."""

    def make(options: LRPOptions) -> Method:
        table = RuleTable.of(special(options)) + epsilon_table(options.epsilon, bias=options.bias)
        return relevance_method(name, table)

    return make


def _flat(options: LRPOptions) -> tuple[Where, Rule]:
    return first_layer, lrp.flat(options.epsilon)


def _plus(options: LRPTwoSidedOptions, where: Where = convolution) -> tuple[Where, Rule]:
    return where, lrp.z_plus(options.epsilon, bias=options.bias, lossless=options.lossless)


def _alpha2_beta1(options: LRPTwoSidedOptions) -> tuple[Where, Rule]:
    division = lrp.signed(options.epsilon)
    return convolution, lrp.alpha_beta(2.0, 1.0, division, bias=options.bias, lossless=options.lossless)


def _gamma(options: GammaOptions | EpsilonGammaBoxOptions, where: Where) -> tuple[Where, Rule]:
    return where, lrp.gamma_rule(options.gamma, options.epsilon, bias=options.bias)


def _box(options: EpsilonGammaBoxOptions) -> tuple[Where, Rule]:
    return first_layer, lrp.z_box(options.low, options.high, options.epsilon)


@dataclass(frozen=True)
class ExcitationOptions:
    """Options of excitation backpropagation.

    Attributes:
        epsilon: the stabiliser ε > 0 of denominators, which has their sign.
        lossless: whether outputs without positive contributions hand on all of their relevance by the negative ones;
            else they hand on none, as published.

    Raises:
        OptionsError: a value has no meaning.
    """

    epsilon: float = lrp.EPSILON
    lossless: bool = False

    def __post_init__(self) -> None:
        require_number("epsilon", self.epsilon, above=0)
        require_flag("lossless", self.lossless)


def excitation_backprop(options: ExcitationOptions) -> Method:
    """Excitation backpropagation (Zhang et al. 2018): z⁺ at every layer, without biases."""
    table = RuleTable.of([(linear_layer, lrp.z_plus(options.epsilon, bias=False, lossless=options.lossless))])
    return relevance_method("excitation-backprop", registered() + table + between_layers(lrp.norm(options.epsilon)))


@dataclass(frozen=True)
class ContrastiveOptions:
    """Options of contrastive excitation backpropagation.

    Attributes:
        epsilon: the stabiliser ε > 0 of denominators, which has their sign.
        relu: whether only positive values are kept.

    Raises:
        OptionsError: a value has no meaning.
    """

    epsilon: float = lrp.EPSILON
    relu: bool = True

    def __post_init__(self) -> None:
        require_number("epsilon", self.epsilon, above=0)
        require_flag("relu", self.relu)


def contrastive_excitation_backprop(options: ContrastiveOptions) -> Method:
    """Contrastive excitation backpropagation (Zhang et al. 2018): for the target, less for what speaks against it."""
    plus = RuleTable.of([(linear_layer, lrp.z_plus(options.epsilon, bias=False))])
    others = registered() + plus + between_layers(lrp.norm(options.epsilon))
    dual = RuleTable.of([(fact("head"), lrp.z_minus(options.epsilon))])

    @formula("map", "Σ_c Φ - Φ of the negated head")
    def read_out(trace: Trace) -> Value:
        found = at_images(trace) - trace.over_channels(trace.at_images(CONTRAST))
        return torch.clamp_min(found, 0) if options.relu else found

    return Method(
        name="contrastive-excitation-backprop",
        streams=(
            Stream(RELEVANCE, rules=others, seed=target_indicator),
            Stream(CONTRAST, rules=dual + others, seed=target_indicator),
        ),
        read_out=read_out,
        needs=(relevance_everywhere, heads, nothing_mixes_logits),
        canonisers=(fold_norms,),
        scale="0 or more, at most 1 in all" if options.relu else "signed: sums to 0",
        blank="everywhere more speaks against the class than for it; relu=False shows the difference",
    )


def nothing_mixes_logits(canonical: CanonicalGraph) -> None:
    """Refuse a network in which something behind the last layer makes logits of several values of different classes."""
    simple = (Family.PASS_THROUGH, Family.DATA_MOVEMENT, Family.AVERAGE)
    for node in canonical.calls:
        if facts(node).tail and family_of(node) not in simple:
            raise CaptureError(
                f"contrastive excitation backpropagation negates the last layer of {canonical.name}, and behind that "
                f"{op_name(node.target)} makes its logits; give a model that ends in a linear layer or a convolution."
            )


def _entry(
    name: str, title: str, citation: str, special: Callable[[LRPOptions], Special], options: type = LRPOptions
) -> Entry:
    return Entry(name, title, citation, _PROPERTIES, _composite(name, special), options)


def _boxed(options: EpsilonGammaBoxOptions) -> Method:
    """The composite with z^B, whose bounds are to be those of what the first layer reads."""
    method = _composite("epsilon-gamma-box", lambda o: [_box(o), _gamma(o, convolution)])(options)
    if options.bounds != "images":
        return method
    return replace(method, needs=(*method.needs, _first_layer_reads_images), bounds=(options.low, options.high))


def _first_layer_reads_images(canonical: CanonicalGraph) -> None:
    """Refuse a network that computes with its images in front of the first layer."""
    within = (Family.DATA_MOVEMENT, Family.AVERAGE, Family.SELECTION)
    waiting = [node for layer in canonical.calls if facts(layer).input_layer for node in signals(layer)]
    for node in waiting:
        moved = node.op != "call_function" or node.target is operator.getitem  # the first of several results
        if not moved and family_of(node) not in within:
            raise OptionsError(
                f"low and high are bounds of the images, and {canonical.name} computes with them "
                f"({op_name(node.target)}) in front of its first layer; give the bounds of what that layer reads, and "
                "bounds='first-layer'."
            )
        waiting += signals(node) if node.op == "call_function" else []


ENTRIES = (
    _entry(
        "epsilon-plus",
        "LRP composite: z⁺ at convolutions, ε at linear layers",
        _KOHLBRENNER,
        lambda o: [_plus(o)],
        LRPTwoSidedOptions,
    ),
    _entry(
        "epsilon-alpha2-beta1",
        "LRP composite: α2β1 at convolutions, ε at linear layers",
        _KOHLBRENNER,
        lambda o: [_alpha2_beta1(o)],
        LRPTwoSidedOptions,
    ),
    _entry(
        "epsilon-alpha2-beta1-flat",
        "LRP composite: ♭ at the first layer, α2β1 at convolutions, ε at linear layers",
        _KOHLBRENNER,
        lambda o: [_flat(o), _alpha2_beta1(o)],
        LRPTwoSidedOptions,
    ),
    Entry(
        "epsilon-gamma-box",
        "LRP composite: z^B at the first layer, γ at convolutions, ε at linear layers",
        "Montavon, Binder, Lapuschkin, Samek and Müller, in: Explainable AI, LNCS 11700, 2019",
        _PROPERTIES,
        _boxed,
        EpsilonGammaBoxOptions,
    ),
    _entry(
        "lrp-gamma",
        "LRP-γ at every layer",
        "Montavon, Binder, Lapuschkin, Samek and Müller, in: Explainable AI, LNCS 11700, 2019",
        lambda o: [_gamma(o, linear_layer)],
        GammaOptions,
    ),
    _entry(
        "lrp-zplus",
        "LRP-z⁺ at every layer",
        "Montavon, Lapuschkin, Binder, Samek and Müller, Pattern Recognition 2017",
        lambda o: [_plus(o, linear_layer)],
        LRPTwoSidedOptions,
    ),
    _entry(
        "lrp-w2",
        "LRP-w² at the first layer, ε elsewhere",
        "Montavon, Lapuschkin, Binder, Samek and Müller, Pattern Recognition 2017",
        lambda o: [(first_layer, lrp.w_square(o.epsilon, bias=o.bias))],
    ),
    _entry(
        "lrp-flat",
        "LRP-♭ at the first layer, ε elsewhere",
        "Lapuschkin, Wäldchen, Binder, Montavon, Samek and Müller, Nature Communications 2019",
        lambda o: [_flat(o)],
    ),
    Entry(
        name="excitation-backprop",
        title="excitation backpropagation: z⁺ at every layer, without biases",
        citation="Zhang, Bargal, Lin, Brandt, Shen and Sclaroff, IJCV 2018",
        properties=_PROPERTIES,
        make=excitation_backprop,
        options=ExcitationOptions,
    ),
    Entry(
        name="contrastive-excitation-backprop",
        title="contrastive excitation backpropagation: for the target, less for what speaks against it",
        citation="Zhang, Bargal, Lin, Brandt, Shen and Sclaroff, IJCV 2018",
        properties=_PROPERTIES._replace(class_specific=True),
        make=contrastive_excitation_backprop,
        options=ContrastiveOptions,
    ),
)
