"""Attribution Guided Factorization: a gradient, and relevance that starts at the heads."""

from __future__ import annotations

from agf_fx.ir.vocabulary import Family
from agf_fx.methods.method import Method, Stream, Trace
from agf_fx.methods.needs import class_layer, heads, relevance_paths, several_classes
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.streams import gradient_stream
from agf_fx.methods.table import RuleTable, fact, family, registered, scaled
from agf_fx.options import AGFOptions
from agf_fx.rules import agf, propagation
from agf_fx.rules.merging import fan_out
from agf_fx.rules.numerics import EXACT, PUBLISHED, Value
from agf_fx.rules.site import RELEVANCE

_PUBLISHED = fact("in_region") & (fact("pointwise") | fact("feeds_merge"))
_FLAT = {"auto": (_PUBLISHED, fact("pointwise")), "reference": (_PUBLISHED,), "none": ()}  # relevance is C alone there


def attribution_guided_factorization(options: AGFOptions) -> Method:
    """AGF (Gur, Ali and Wolf, AAAI 2021, Alg. 1) with the given options."""
    division = EXACT if options.division == "exact" else PUBLISHED
    rules = _by_role(options) + registered() + _by_family(options)
    relevance = Stream(
        RELEVANCE,
        rules=rules.divided(division),
        starts=RuleTable.of([(fact("head"), propagation.initial_attribution)]),
        merge=fan_out.divided(division),
    )
    return Method(
        name="agf",
        streams=(gradient_stream(agf.softened_target_gradient), relevance),
        read_out=normalised_channel_sum,
        needs=(several_classes("agf"), class_layer, heads, relevance_paths),
        scale="signed; the largest relevance of any entry is 1 before channels are summed",
        rounding='AGFOptions(merge="auto") is better conditioned than merge="z"' if options.merge == "z" else "",
    )


def normalised_channel_sum(trace: Trace) -> Value:
    """The relevance at the images over its maximum, summed over channels (see `agf_fx.rules.agf`)."""
    return agf.normalised_channel_sum(trace.at_images(RELEVANCE), trace.rank, trace.channel_dim)


def _by_role(options: AGFOptions) -> RuleTable:
    """Rules of calls that the analyses have found something out about."""
    entries = [
        (fact("input_layer"), propagation.z_box),
        *((where, propagation.flat) for where in _FLAT[options.flat_convolutions]),
        (fact("flatten_boundary"), agf.flatten_boundary),
        (fact("gate"), propagation.gated),
    ]
    if options.attention == "cp":
        entries.append((fact("attention"), propagation.constant_attention))
    if options.merge == "auto":
        entries.append((fact("open_merge"), propagation.merge_by_size))
    return RuleTable.of(entries)


def _by_family(options: AGFOptions) -> RuleTable:
    merge = propagation.merge_by_size if options.merge == "ratio" else propagation.proportional
    return RuleTable.of(
        [
            (family(Family.CONVOLUTION), agf.guided_convolution(options)),
            (family(Family.LINEAR), propagation.flat),
            (family(Family.AVERAGE), propagation.average),
            (family(Family.PROPORTIONAL), propagation.proportional),
            (family(Family.SELECTION), propagation.selective),
            (scaled, propagation.scaled),
            (family(Family.PASS_THROUGH), propagation.pass_through),
            (family(Family.DATA_MOVEMENT), propagation.move_back),
            (family(Family.MERGE), merge),
            (family(Family.PRODUCT), propagation.bilinear),
            (family(Family.JOINT), propagation.by_influence),
            (family(Family.SOFT_MAXIMUM), propagation.by_weights),
            (family(Family.SOFTMAX), propagation.softmax),
        ]
    )


ENTRIES = (
    Entry(
        name="agf",
        title="attribution guided factorization",
        citation="Gur, Ali and Wolf, AAAI 2021",
        properties=Properties(gradients=True, attribution=True, class_specific=True, reaches_input=True),
        make=attribution_guided_factorization,
        options=AGFOptions,
    ),
)
