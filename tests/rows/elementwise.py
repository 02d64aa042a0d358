"""Activations and other functions of every entry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import CHANNELS, Apply, Row, family, random
from torch import Tensor, nn

from agf_fx.ir.vocabulary import Family

aten = torch.ops.aten
F = torch.nn.functional


def behind_gate(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A layer in which the images reach ``function`` on the way to a gate only."""
    return lambda: Apply(lambda x: x * torch.sigmoid(function(x)))


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
    aten.neg.default: {"operator": lambda: Apply(lambda x: -x), "negative": lambda: Apply(torch.negative)},
}

GATES: dict[Callable, dict[str, Callable[[], nn.Module]]] = {
    aten.abs.default: {
        "a gate": behind_gate(torch.abs),
        "softsign": nn.Softsign,
        "absolute": behind_gate(torch.absolute),
    },
    aten.exp.default: {
        "a gate": behind_gate(torch.exp),
        "a sigmoid by hand": lambda: Apply(lambda x: x / (1 + torch.exp(-x))),
        "power of 2": behind_gate(torch.exp2),
        "power of a number": behind_gate(lambda x: 0.7**x),
    },
    aten.expm1.default: {"a gate": behind_gate(torch.expm1)},
    aten.log.default: {"a gate": behind_gate(lambda x: torch.log(x * x + 0.1))},
    aten.log1p.default: {"a gate": behind_gate(lambda x: torch.log1p(x * x))},
    aten.sin.default: {"a gate": behind_gate(torch.sin)},
    aten.cos.default: {"a gate": behind_gate(torch.cos)},
    aten.sqrt.default: {"a gate": behind_gate(lambda x: torch.sqrt(x * x + 0.1))},
    aten.rsqrt.default: {"a gate": behind_gate(lambda x: torch.rsqrt(x * x + 0.1))},
    aten.reciprocal.default: {
        "a gate": behind_gate(lambda x: (x * x + 0.1).reciprocal()),
        "of a number": behind_gate(lambda x: 3 / (x * x + 0.1)),
    },
    aten.pow.Tensor_Scalar: {
        "a fraction": behind_gate(lambda x: (x * x + 0.1) ** 0.75),
        "negative": behind_gate(lambda x: (x * x + 0.1) ** -2),
        "whole": behind_gate(lambda x: x**5),
    },
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
    *(row for op, rows in GATES.items() for row in family(op, Family.GRADIENT_ONLY, rows)),
    *family(
        aten.amax.default,
        Family.PROPORTIONAL,
        {"the larger of two": lambda: Apply(torch.maximum), "max": lambda: Apply(lambda x, y: torch.max(x, y))},
        signals=2,
    ),
    Row(aten.amax.default, "the smaller of two", Family.PROPORTIONAL, lambda: Apply(torch.minimum), signals=2),
]
