"""Contrast: the relevance of the target, less that of all other classes."""

from __future__ import annotations

from dataclasses import replace

import torch

from agf_fx.methods.lrp import LRPAlphaBetaOptions, alpha_beta_table, one_sided, target_logit
from agf_fx.methods.method import Method, Stream, Trace
from agf_fx.methods.needs import relevance_everywhere, several_classes
from agf_fx.methods.registry import Entry, Properties
from agf_fx.passes.norm_canoniser import fold_norms
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
        canonisers=(fold_norms,) if options.bias else (),
        scale="signed, in units of the logit: sums to 0",
    )


@formula("Φ", "Φ_t = p_t (1 - p_t) + 1e-8, 0 elsewhere")
def target_slope(y: Value, target: Value) -> Value:
    """The derivative of the target's probability at its logit: (K, N, classes)."""
    found = indicator(each_target(y, target), torch.unsqueeze(target, 2))
    p = torch.softmax(y, -1)
    return found * (p * (-p + 1.0) + 1e-8)


@formula("Φ", "Φ_k = p_t p_k for k ≠ t, 0 at the target")
def other_slopes(y: Value, target: Value) -> Value:
    """The size of the derivatives of the target's probability at the other logits: (K, N, classes)."""
    p = each_target(torch.softmax(y, -1), target)
    index = torch.unsqueeze(target, 2)
    return (-indicator(p, index) + 1.0) * (p * torch.gather(p, 2, index))


def softmax_gradient_lrp(options: LRPAlphaBetaOptions) -> Method:
    """SGLRP (Iwana, Kuroki and Uchida, 2019) with the rules of LRP-αβ, in the published code of AGF."""
    clrp = contrastive_lrp(options)
    seeds = target_slope, other_slopes
    streams = tuple(replace(stream, seed=seed) for stream, seed in zip(clrp.streams, seeds, strict=True))
    scale = "signed, in units of the probability: sums to 0"
    return replace(
        clrp, name="sglrp", streams=streams, needs=(several_classes("sglrp"), relevance_everywhere), scale=scale
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
    Entry(
        name="sglrp",
        title="softmax-gradient LRP: contrastive LRP that starts as the derivatives of the target's probability",
        citation="Iwana, Kuroki and Uchida, ICCV workshop 2019",
        properties=Properties(gradients=False, attribution=True, class_specific=True, reaches_input=True),
        make=softmax_gradient_lrp,
        options=LRPAlphaBetaOptions,
    ),
)
