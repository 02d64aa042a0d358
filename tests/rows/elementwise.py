"""Activations and other functions of every entry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import CHANNELS, Apply, Row, family, random
from torch import nn

from agf_fx.ir.vocabulary import Family

aten = torch.ops.aten
F = torch.nn.functional


def prelu(slopes: int, spatial: bool = True) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        layer = nn.PReLU(slopes)
        nn.init.uniform_(layer.weight, -0.5, 0.9)
        return layer if spatial else nn.Sequential(Apply(lambda x: x.mean((2, 3))), layer)

    return build


ACTIVATIONS: dict[Callable, dict[str, Callable[[], nn.Module]]] = {
    aten.gelu.default: {
        "exact": nn.GELU,
        "by tanh": lambda: nn.GELU("tanh"),
        "function": lambda: Apply(F.gelu),
        "on vectors": lambda: nn.Sequential(Apply(lambda x: x.mean((2, 3))), nn.GELU()),
    },
    aten.silu.default: {"module": nn.SiLU, "in place": lambda: nn.SiLU(inplace=True)},
    aten.mish.default: {"module": nn.Mish},
    aten.hardswish.default: {
        "module": nn.Hardswish,
        "beyond its bends": lambda: Apply(lambda x: F.hardswish(x * 9)),
        "in place": lambda: nn.Hardswish(inplace=True),
    },
    aten.hardsigmoid.default: {
        "module": nn.Hardsigmoid,
        "beyond its bends": lambda: Apply(lambda x: F.hardsigmoid(x * 9)),
    },
    aten.hardtanh.default: {
        "module": lambda: nn.Hardtanh(-0.2, 0.3),
        "ReLU6": lambda: nn.Sequential(Apply(lambda x: x * 9), nn.ReLU6(inplace=True)),
        "relu6": lambda: Apply(lambda x: F.relu6(x * 9)),
    },
    aten.leaky_relu.default: {
        "module": nn.LeakyReLU,
        "in place": lambda: nn.LeakyReLU(0.2, inplace=True),
        "randomised": lambda: nn.RReLU(0.1, 0.4),
    },
    aten.prelu.default: {
        "one slope": prelu(1),
        "a slope per channel": prelu(CHANNELS),
        "on vectors": prelu(CHANNELS, spatial=False),
        "function": lambda: Apply(F.prelu, random(CHANNELS)),
    },
    aten.elu.default: {"ELU": lambda: nn.ELU(0.7), "SELU": nn.SELU, "CELU": lambda: nn.CELU(0.5)},
    aten.softplus.default: {
        "module": nn.Softplus,
        "beta and threshold": lambda: nn.Softplus(beta=3, threshold=0.8),
        "LogSigmoid": nn.LogSigmoid,
    },
    aten.sigmoid.default: {"module": nn.Sigmoid, "expit": lambda: Apply(torch.special.expit)},
    aten.tanh.default: {"module": nn.Tanh},
    aten.clamp.default: {
        "both bounds": lambda: Apply(lambda x: x.clamp(-0.2, 0.3)),
        "below": lambda: Apply(lambda x: x.clamp(min=-0.1)),
        "above": lambda: Apply(lambda x: torch.clamp(x, max=0.3)),
        "clamp_min": lambda: Apply(lambda x: x.clamp_min(-0.2)),
        "clamp_max": lambda: Apply(lambda x: torch.clamp_max(x, 0.1)),
        "clip": lambda: Apply(lambda x: torch.clip(x, -0.3, 0.1)),
    },
    aten.neg.default: {
        "operator": lambda: Apply(lambda x: -torch.tanh(x)),
        "negative": lambda: Apply(lambda x: torch.negative(torch.tanh(x))),
    },
}

FUNCTIONS: dict[Callable, dict[str, Callable[[], nn.Module]]] = {
    aten.abs.default: {"function": lambda: Apply(torch.abs), "absolute": lambda: Apply(torch.absolute)},
    aten.exp.default: {
        "function": lambda: Apply(torch.exp),
        "power of 2": lambda: Apply(torch.exp2),
        "power of a number": lambda: Apply(lambda x: 0.7**x),
    },
    aten.expm1.default: {"function": lambda: Apply(torch.expm1)},
    aten.log.default: {"function": lambda: Apply(lambda x: torch.log(x * x + 0.1))},
    aten.log1p.default: {"function": lambda: Apply(lambda x: torch.log1p(x * x))},
    aten.sin.default: {"function": lambda: Apply(torch.sin)},
    aten.cos.default: {"function": lambda: Apply(torch.cos)},
    aten.erf.default: {"function": lambda: Apply(torch.erf)},
    aten.sqrt.default: {"function": lambda: Apply(lambda x: torch.sqrt(x * x + 0.1))},
    aten.rsqrt.default: {"function": lambda: Apply(lambda x: torch.rsqrt(x * x + 0.1))},
    aten.reciprocal.default: {
        "method": lambda: Apply(lambda x: (x * x + 0.1).reciprocal()),
        "of a number": lambda: Apply(lambda x: 3 / (x * x + 0.1)),
    },
    aten.pow.Tensor_Scalar: {
        "a fraction": lambda: Apply(lambda x: (x * x + 0.1) ** 0.75),
        "negative": lambda: Apply(lambda x: (x * x + 0.1) ** -2),
        "whole": lambda: Apply(lambda x: x**5),
        "float_power": lambda: Apply(lambda x: torch.float_power(x * x + 0.1, 1.5)),
        "by a tensor": lambda: Apply(lambda x: (x * x + 0.1) ** torch.tensor(0.7)),
    },
    aten.erfc.default: {"function": lambda: Apply(torch.erfc), "ndtr": lambda: Apply(torch.special.ndtr)},
    aten.erfinv.default: {"function": lambda: Apply(lambda x: torch.erfinv(torch.tanh(x) * 0.9))},
    aten.log2.default: {"function": lambda: Apply(lambda x: torch.log2(x * x + 0.1))},
    aten.log10.default: {"function": lambda: Apply(lambda x: torch.log10(x * x + 0.1))},
    aten.logit.default: {
        "function": lambda: Apply(lambda x: torch.logit(torch.sigmoid(x) * 0.9)),
        "with bounds": lambda: Apply(lambda x: torch.special.logit(torch.sigmoid(x), 0.45)),
    },
    aten.special_entr.default: {"function": lambda: Apply(lambda x: torch.special.entr(torch.sigmoid(x)))},
    aten.sinc.default: {
        "function": lambda: Apply(torch.sinc),
        "at 0": lambda: Apply(lambda x: torch.special.sinc(torch.relu(x))),
    },
    aten.tan.default: {"function": lambda: Apply(lambda x: torch.tan(torch.tanh(x)))},
    aten.asin.default: {"function": lambda: Apply(lambda x: torch.asin(torch.tanh(x) * 0.9))},
    aten.acos.default: {"function": lambda: Apply(lambda x: torch.arccos(torch.tanh(x) * 0.9))},
    aten.atan.default: {"function": lambda: Apply(torch.atan), "arctan": lambda: Apply(torch.arctan)},
    aten.sinh.default: {"function": lambda: Apply(torch.sinh)},
    aten.cosh.default: {"function": lambda: Apply(torch.cosh)},
    aten.asinh.default: {"function": lambda: Apply(torch.asinh)},
    aten.acosh.default: {"function": lambda: Apply(lambda x: torch.acosh(x * x + 1.1))},
    aten.atanh.default: {"function": lambda: Apply(lambda x: torch.atanh(torch.tanh(x) * 0.9))},
    aten.remainder.Scalar: {"operator": lambda: Apply(lambda x: x % 0.3)},
    aten.fmod.Scalar: {"function": lambda: Apply(lambda x: torch.fmod(x, 0.3))},
}

# Functions of two values, entry by entry, that are neither a sum nor a product; y is kept from where they have poles.
JOINT: dict[Callable, Callable] = {
    aten.hypot.default: torch.hypot,
    aten.atan2.default: torch.atan2,
    aten.pow.Tensor_Tensor: lambda x, y: (x * x + 0.1) ** y,
    aten.remainder.Tensor: lambda x, y: x % (y.abs() + 0.2),
    aten.fmod.Tensor: lambda x, y: torch.fmod(x, y.abs() + 0.2),
}


def joint_rows(op: Callable, function: Callable, family_of_two: Family) -> list[Row]:
    return [
        Row(op, "two signals", family_of_two, lambda: Apply(function), signals=2),
        Row(op, "two shapes", family_of_two, lambda: Apply(lambda x, y: function(x[:, :1], y)), signals=2),
        Row(op, "with a constant", Family.PASS_THROUGH, lambda: Apply(function, random(CHANNELS, 1, 1))),
        Row(
            op, "of a constant", Family.PASS_THROUGH, lambda: Apply(lambda x, c: function(c, x), random(CHANNELS, 1, 1))
        ),
    ]


# The images reach these functions on the way to a gate only.
ON_GATES: dict[Callable, dict[str, Callable[[], nn.Module]]] = {
    aten.abs.default: {
        "a gate": lambda: Apply(lambda x: x * torch.sigmoid(torch.abs(x))),
        "softsign": nn.Softsign,
    },
    aten.exp.default: {"a sigmoid by hand": lambda: Apply(lambda x: x / (1 + torch.exp(-x)))},
    aten.erf.default: {"a GELU by hand": lambda: Apply(lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)))},
}

ROWS: list[Row] = [
    *family(
        aten.relu.default,
        Family.SELECTION,
        {
            "function": lambda: Apply(torch.relu),
            "in place": lambda: nn.ReLU(inplace=True),
            "clamp": lambda: Apply(lambda x: x.clamp(min=0)),
            "threshold": lambda: nn.Threshold(0, 0),
        },
    ),
    *(row for op, rows in ACTIVATIONS.items() for row in family(op, Family.PASS_THROUGH, rows)),
    *(row for op, rows in FUNCTIONS.items() for row in family(op, Family.PASS_THROUGH, rows)),
    *(row for op, rows in ON_GATES.items() for row in family(op, Family.PASS_THROUGH, rows, on_gate=True)),
    *family(
        aten.clamp.default,
        Family.PASS_THROUGH,
        {
            "the larger of a signal and a number": lambda: Apply(lambda x: torch.maximum(x, torch.tensor(0.1))),
            "the smaller of a signal and a number": lambda: Apply(lambda x: torch.min(torch.tensor(0.1), x)),
        },
    ),
    Row(
        aten.amax.default,
        "the larger of a signal and a constant",
        Family.PROPORTIONAL,
        lambda: Apply(torch.maximum, random(CHANNELS, 1, 1) / 9),
    ),
    Row(
        aten.amax.default,
        "the smaller of two shapes",
        Family.PROPORTIONAL,
        lambda: Apply(lambda x, y: torch.minimum(x[:, :1], y)),
        signals=2,
    ),
    *family(
        aten.amax.default,
        Family.PROPORTIONAL,
        {"the larger of two": lambda: Apply(torch.maximum), "max": lambda: Apply(lambda x, y: torch.max(x, y))},
        signals=2,
    ),
    Row(aten.amax.default, "the smaller of two", Family.PROPORTIONAL, lambda: Apply(torch.minimum), signals=2),
    Row(aten.amax.default, "fmax", Family.PROPORTIONAL, lambda: Apply(torch.fmax), signals=2),
    *(row for op, function in JOINT.items() for row in joint_rows(op, function, Family.JOINT)),
    *joint_rows(aten.logaddexp.default, torch.logaddexp, Family.SOFT_MAXIMUM),
    Row(aten.logaddexp.default, "logaddexp2", Family.SOFT_MAXIMUM, lambda: Apply(torch.logaddexp2), signals=2),
    *family(
        aten.logsumexp.default,
        Family.SOFT_MAXIMUM,
        {
            "over channels": lambda: Apply(lambda x: torch.logsumexp(x, 1)),
            "over positions": lambda: Apply(lambda x: torch.logsumexp(x, (-1, 2), keepdim=True)),
        },
    ),
]
