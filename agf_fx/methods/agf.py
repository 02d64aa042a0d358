"""Attribution Guided Factorization as a rule table."""

from __future__ import annotations

import functools

from agf_fx.ir.vocabulary import Family
from agf_fx.methods.method import Method
from agf_fx.options import AGFOptions
from agf_fx.rules import agf, propagation
from agf_fx.rules.register import registered_rules

_FLAT_ROLES = {"auto": ("flat", "pointwise"), "reference": ("flat",), "none": ()}


def attribution_guided_factorization(options: AGFOptions) -> Method:
    """AGF (Gur, Ali and Wolf, AAAI 2021, Alg. 1) with the given options."""
    roles = [
        ("input_layer", propagation.z_box),
        *((role, propagation.flat) for role in _FLAT_ROLES[options.flat_convolutions]),
        ("flatten_boundary", agf.flatten_boundary),
        ("gate", propagation.gated),
    ]
    if options.attention == "cp":
        roles.append(("attention", propagation.constant_attention))
    if options.merge == "auto":
        roles.append(("open_merge", propagation.merge_by_size))
    return Method(
        name="agf",
        initial_gradient=agf.softened_target_gradient,
        initial_relevance=propagation.initial_attribution,
        roles=tuple(roles),
        families={
            Family.CONVOLUTION: functools.partial(agf.guided_convolution, options=options),
            Family.LINEAR: propagation.flat,
            Family.AVERAGE: propagation.average,
            Family.PROPORTIONAL: propagation.proportional,
            Family.SELECTION: propagation.selective,
            Family.PASS_THROUGH: propagation.pass_through,
            Family.DATA_MOVEMENT: propagation.move_back,
            Family.MERGE: propagation.merge_by_size if options.merge == "ratio" else propagation.proportional,
            Family.PRODUCT: propagation.bilinear,
            Family.JOINT: propagation.by_influence,
            Family.SOFT_MAXIMUM: propagation.by_weights,
            Family.SOFTMAX: propagation.softmax,
        },
        fan_out=agf.fan_out,
        read_out=agf.normalised_channel_sum,
        minimum_classes=2,
        exact_division=options.division == "exact",
        operations=registered_rules(),
    )
