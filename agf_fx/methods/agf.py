"""Attribution Guided Factorization as a rule table."""

from __future__ import annotations

import functools

from agf_fx.ir.vocabulary import Family
from agf_fx.methods.method import Method
from agf_fx.options import AGFOptions
from agf_fx.rules import agf, propagation
from agf_fx.rules.register import registered_rules


def attribution_guided_factorization(options: AGFOptions) -> Method:
    """AGF (Gur, Ali and Wolf, AAAI 2021, Alg. 1) with the given options."""
    return Method(
        name="agf",
        initial_gradient=agf.softened_target_gradient,
        roles=(
            ("tail", propagation.no_relevance),
            ("head", propagation.initial_attribution),
            ("input_layer", propagation.z_box),
            ("flat", propagation.flat),
            ("flatten_boundary", agf.flatten_boundary),
        ),
        families={
            Family.CONVOLUTION: functools.partial(agf.guided_convolution, options=options),
            Family.LINEAR: propagation.flat,
            Family.PROPORTIONAL: propagation.proportional,
            Family.SELECTION: propagation.selective,
            Family.PASS_THROUGH: propagation.pass_through,
            Family.DATA_MOVEMENT: propagation.move_back,
            Family.MERGE: propagation.proportional,
        },
        fan_out=agf.fan_out,
        read_out=agf.normalised_channel_sum,
        minimum_classes=2,
        operations=registered_rules(),
    )
