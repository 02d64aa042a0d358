"""Contrast: the relevance of the target, less that of all other classes."""

from __future__ import annotations

import torch

from agf_fx.methods.lrp import LRPAlphaBetaOptions, alpha_beta_table, one_sided, target_logit
from agf_fx.methods.method import Method, Stream, Trace
from agf_fx.methods.needs import relevance_everywhere, several_classes
from agf_fx.methods.registry import Entry, Properties
from agf_fx.rules.merging import fan_out
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value, divide_or_zero, per_sample
from agf_fx.rules.site import RELEVANCE
from agf_fx.rules.targets import each_target, indicator

CONTRAST = "contrast"
"""The stream of the other classes."""


@formula("Φ", "Φ_k = y_t / (classes - 1) for k ≠ t, 0 at the target")
def other_classes(y: Value, target: Value) -> Value:
    """The target's logit, in equal parts at all other classes: (K, N, classes)."""
    logits = each_target(y, target)
    index = torch.unsqueeze(target, 2)
    others = -indicator(logits, index) + 1.0
    return others * (torch.gather(logits, 2, index) / (torch.sum(others, [-1], True)))


@formula("map", "Σ_c (Φ - Ψ ΣΦ / ΣΨ)")
def difference(trace: Trace) -> Value:
    """The relevance of the target less that of the others, Ψ, at the scale of the former: (K, N, *spatial)."""
    own, others = (trace.over_channels(trace.at_images(stream)) for stream in (RELEVANCE, CONTRAST))
    dims = per_sample(trace.rank if trace.channel_dim is None else trace.rank - 1)
    return own - others * divide_or_zero(torch.sum(own, dims, True), torch.sum(others, dims, True))


def contrastive_lrp(options: LRPAlphaBetaOptions) -> Method:
    """CLRP (Gu, Yang and Tresp, ACCV 2018) with the rules of LRP-αβ, in the published code of AGF."""
    table, merge = alpha_beta_table(options), fan_out.divided(one_sided(options))
    return Method(
        name="clrp",
        streams=(
            Stream(RELEVANCE, rules=table, seed=target_logit, merge=merge),
            Stream(CONTRAST, rules=table, seed=other_classes, merge=merge),
        ),
        read_out=difference,
        needs=(several_classes("clrp"), relevance_everywhere),
        scale="signed, in units of the logit: sums to 0",
    )


ENTRIES = (
    Entry(
        name="clrp",
        title="contrastive LRP: the target's relevance less that of all other classes",
        citation="Gu, Yang and Tresp, ACCV 2018",
        properties=Properties(gradients=False, attribution=True, class_specific=True, reaches_input=True),
        make=contrastive_lrp,
        options=LRPAlphaBetaOptions,
    ),
)
