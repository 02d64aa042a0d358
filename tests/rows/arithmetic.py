"""Sums, products and quotients, of signals and constants."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from cases import CHANNELS, DTYPE, HEIGHT, WIDTH, Apply, Row, family, random, times_column
from torch import Tensor, nn

from agf_fx.ir.text import op_name
from agf_fx.ir.vocabulary import STEPS, Family

aten = torch.ops.aten
F = torch.nn.functional


def column_of_means(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


class SqueezeExcite(nn.Module):
    """The gate of MobileNetV3 and EfficientNet, one number per channel."""

    def __init__(self, switch: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(CHANNELS, 3, 1), nn.Conv2d(3, CHANNELS, 1)
        self.switch = switch

    def forward(self, x: Tensor) -> Tensor:
        return self.switch(self.up(torch.relu(self.down(F.adaptive_avg_pool2d(x, 1))))) * x


class EfficientChannelAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return x * gate.transpose(1, 2).unsqueeze(-1)


class SpatialAttention(nn.Module):
    """The second half of CBAM, one number per position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.conv(pooled))


def response_norm(x: Tensor) -> Tensor:
    """The scale of ConvNeXt-V2's global response normalisation."""
    length = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
    return x * (length / (length.mean(1, keepdim=True) + 1e-6))


def normalised_by_hand(x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6)


# Products of two signals by which of them is the gate, counted in the canonical call; constants come second.

FIRST_IS_GATE: dict[str, Callable[[], nn.Module]] = {
    "squeeze-excite": lambda: SqueezeExcite(torch.sigmoid),
    "squeeze-excite, hard sigmoid": lambda: SqueezeExcite(F.hardsigmoid),
    "squeeze-excite, no bounds": lambda: SqueezeExcite(lambda x: x),
    "of a repeated vector and a bounded map": lambda: Apply(lambda x: torch.sigmoid(x) * column_of_means(x)),
}
SECOND_IS_GATE: dict[str, Callable[[], nn.Module]] = {
    "SiLU by hand": lambda: Apply(lambda x: x * torch.sigmoid(x)),
    "SiLU by hand, in place": lambda: Apply(lambda x: (x + 0).mul_(x.sigmoid())),
    "hard swish by hand": lambda: Apply(lambda x: x * F.relu6(x + 0.2) / 6),
    "Mish by hand": lambda: Apply(lambda x: x * torch.tanh(F.softplus(x))),
    "GLU": lambda: nn.GLU(1),
    "tanh times sigmoid": lambda: Apply(lambda x: torch.tanh(x) * torch.sigmoid(x.flip(1))),
    "ReLU6 times hard sigmoid": lambda: Apply(lambda x: F.relu6(x) * F.hardsigmoid(x.flip(2))),
    "channel attention by a convolution": EfficientChannelAttention,
    "spatial attention": SpatialAttention,
    "global response": lambda: Apply(response_norm),
    "one plus a gate": lambda: Apply(lambda x: x * (1 + torch.tanh(x.flip(1)))),
    "a sum of gates": lambda: Apply(lambda x: x * (torch.sigmoid(x) + torch.sigmoid(-x.flip(1)) / 3)),
    "a gate, upsampled": lambda: Apply(
        lambda x: x * F.interpolate(torch.sigmoid(F.avg_pool2d(x, 2)), (HEIGHT, WIDTH), mode="bilinear")
    ),
    "a gate behind dropout": lambda: Apply(lambda x: x * F.dropout(torch.sigmoid(x.flip(1)), 0.5, training=False)),
}
NO_GATE: dict[str, Callable[[], nn.Module]] = {
    "two plain signals": lambda: Apply(operator.mul),
    "multiply": lambda: Apply(torch.multiply),
    "two gates": lambda: Apply(lambda x, y: torch.sigmoid(x) * torch.sigmoid(y)),
    "every pair": lambda: Apply(lambda x, y: x.flatten(2)[:, :, :5, None] * y.flatten(2)[:, :, None, :4]),
    "every pair by einsum": lambda: Apply(lambda x, y: torch.einsum("nc,nd->ncd", x.mean((2, 3)), y.mean((2, 3)))),
    "with a one-sided clamp": lambda: Apply(lambda x, y: x * y.clamp(max=0.1)),
}
SQUARES: dict[str, Callable[[], nn.Module]] = {
    "a signal with itself": lambda: Apply(lambda x: x * x),
    "square": lambda: Apply(torch.square),
    "power of 2": lambda: Apply(lambda x: torch.relu(x) ** 2),
}

DIFFERENCES_FROM_MEANS: dict[str, Callable[[], nn.Module]] = {
    "from its mean": lambda: Apply(lambda x: x - x.mean(1, keepdim=True)),
    "from its mean over positions": lambda: Apply(lambda x: x - x.mean((2, 3), keepdim=True)),
}


def by_step(step: Callable[..., Tensor]) -> Callable[[], nn.Module]:
    """The images times a step function of themselves, or of a comparison with a number or with other pixels."""
    if str(step).endswith("Tensor"):
        return lambda: Apply(lambda x: x * step(x, x.flip(2)))
    if step is aten.heaviside.default:
        return lambda: Apply(lambda x: x * step(torch.relu(x).detach(), torch.full_like(x, 0.5)))
    if step is aten.floor_divide.default:
        return lambda: Apply(lambda x: x * torch.div(x.flip(2), x.abs() + 0.1, rounding_mode="floor"))
    if step is aten.signbit.default:
        return lambda: Apply(lambda x: torch.copysign(x, x.flip(2)))
    if step is aten.round.decimals:
        return lambda: Apply(lambda x: x * torch.round(x, decimals=1))
    if str(step).endswith("Scalar"):
        return lambda: Apply(lambda x: x * step(x.clamp(-0.1, 0.1), -0.1 if step is aten.gt.Scalar else 0.1))
    return lambda: Apply(lambda x: x * step(x / 0.3))


ROWS: list[Row] = [
    *family(
        aten.mul.Tensor,
        Family.PASS_THROUGH,
        {
            "by a constant": lambda: Apply(operator.mul, random(CHANNELS, 1, 1)),
            "constant first": lambda: Apply(lambda x, c: c * x, -random(1, CHANNELS, HEIGHT, WIDTH)),
            "by a number": lambda: Apply(lambda x: -3 * torch.tanh(x)),
            "by a computed constant": lambda: Apply(times_column),
            "by a larger constant": lambda: Apply(lambda x, c: x[:, :, None] * c, random(CHANNELS, 3, 1, 1)),
            "layer scale": lambda: Apply(lambda x, c: x.permute(0, 2, 3, 1) * c, random(CHANNELS)),
            **{f"by {op_name(op)}, a step": by_step(op) for op in sorted(STEPS, key=op_name)},
        },
    ),
    *family(aten.mul.Tensor, Family.PRODUCT, FIRST_IS_GATE, gate=0),
    *family(aten.mul.Tensor, Family.PRODUCT, SECOND_IS_GATE, gate=1),
    *family(aten.mul.Tensor, Family.PRODUCT, NO_GATE, signals=2),
    *family(aten.mul.Tensor, Family.PRODUCT, SQUARES),
    *family(
        aten.mul.Tensor,
        Family.PRODUCT,
        {"cube": lambda: Apply(lambda x: x**3), "power of 4": lambda: Apply(lambda x: x.pow(4))},
        times=2,
    ),
    Row(
        aten.mul.Tensor,
        "addcmul",
        Family.PRODUCT,
        lambda: Apply(lambda x, y, c: torch.addcmul(c, x, y), random(WIDTH)),
        signals=2,
    ),
    *family(
        aten.div.Tensor,
        Family.PASS_THROUGH,
        {
            "by a constant": lambda: Apply(operator.truediv, random(CHANNELS, 1, 1)),
            "by a number": lambda: Apply(lambda x: x / 3),
            "by a constant of the code": lambda: Apply(lambda x: x / torch.linspace(0.5, 2, WIDTH, dtype=DTYPE)),
            "true_divide": lambda: Apply(torch.true_divide, random(WIDTH)),
            "divide": lambda: Apply(torch.divide, random(WIDTH)),
            "addcdiv": lambda: Apply(lambda x, c: torch.addcdiv(c, x, c + 1, value=-2), random(WIDTH)),
        },
    ),
    *family(
        aten.div.Tensor,
        Family.PRODUCT,
        {
            "by its size": lambda: Apply(lambda x: x / (x.abs() + 0.1)),
            "softsign": nn.Softsign,
            "normalised": lambda: Apply(lambda x: F.normalize(x, dim=1)),
            "normalised by Σ|x|": lambda: Apply(lambda x: F.normalize(x, p=1, dim=2)),
            "normalised by max|x|": lambda: Apply(lambda x: F.normalize(x, p=torch.inf, dim=-1)),
            "normalised by (Σ|x|³)^⅓": lambda: Apply(lambda x: F.normalize(x, p=3, dim=1)),
            "by its length": lambda: Apply(lambda x: x / torch.linalg.norm(x, dim=(2, 3), keepdim=True)),
            "layer norm by hand": lambda: Apply(normalised_by_hand),
            "by its standard deviation": lambda: Apply(lambda x: x / x.std((1, 2, 3), keepdim=True)),
            "by its variance": lambda: Apply(lambda x: x / (0.1 + x.var(1, unbiased=False, keepdim=True))),
            "by its corrected variance": lambda: Apply(
                lambda x: x / (0.1 + torch.var(x, (-1, 1), correction=2)[:, None, :, None])
            ),
            "weights by their sum": lambda: Apply(lambda x: x.sigmoid() / x.sigmoid().sum(1, keepdim=True)),
            "local response norm": lambda: nn.LocalResponseNorm(3, alpha=0.5),
        },
        gate=1,
    ),
    Row(
        aten.div.Tensor,
        "by another signal",
        Family.PRODUCT,
        lambda: Apply(lambda x, y: x / (y.abs() + 0.2)),
        signals=2,
        gate=1,
    ),
    Row(
        aten.div.Tensor,
        "cosine similarity",
        Family.PRODUCT,
        lambda: Apply(lambda x, y: F.cosine_similarity(x, y, dim=1)),
        signals=2,
        gate=1,
        times=2,
    ),
    *family(
        aten.div.Tensor,
        Family.PASS_THROUGH,
        {
            "of a constant behind a gate": lambda: Apply(
                lambda x, c: x * torch.sigmoid(c / (x * x + 0.1)), random(WIDTH)
            ),
        },
        on_gate=True,
    ),
    Row(
        aten.div.Tensor,
        "of a constant",
        Family.PASS_THROUGH,
        lambda: Apply(lambda x, c: c / (x * x + 0.1), random(WIDTH)),
    ),
    *family(
        aten.add.Tensor,
        Family.MERGE,
        {
            "two signals": lambda: Apply(operator.add),
            "alpha": lambda: Apply(lambda x, y: torch.add(x, y, alpha=-2)),
            "in place": lambda: Apply(lambda x, y: (2 * x).add_(y)),
            "a vector at every position": lambda: Apply(lambda x, y: x + column_of_means(y)),
            "a map for every channel": lambda: Apply(lambda x, y: y.mean(1)[:, None] + x),
            "with ReLU behind": lambda: Apply(lambda x, y: torch.relu(x + y)),
            "with movement and ReLU behind": lambda: Apply(lambda x, y: torch.relu((x + y).flatten(1))),
            "with GELU behind": lambda: Apply(lambda x, y: F.gelu(x + y)),
            "lerp": lambda: Apply(lambda x, y: torch.lerp(x, y, 0.3)),
        },
        signals=2,
    ),
    Row(aten.add.Tensor, "a signal with itself", Family.MERGE, lambda: Apply(lambda x: x + x)),
    *family(
        aten.add.Tensor,
        Family.PASS_THROUGH,
        {
            # Right behind a layer they would be its bias.
            "a constant": lambda: Apply(lambda x, c: torch.tanh(x) + c, random(CHANNELS, 1, 1)),
            "constant first": lambda: Apply(lambda x, c: c + x, random(1, 1, HEIGHT, WIDTH)),
            "a larger constant": lambda: Apply(lambda x, c: column_of_means(x) + c, random(1, CHANNELS, 3, 2)),
            "a constant with more dimensions": lambda: Apply(
                lambda x, c: x.mean((2, 3))[:, None] + c, random(1, 3, CHANNELS)
            ),
            "a number": lambda: Apply(lambda x: torch.tanh(x) + 0.7),
            "a number with alpha": lambda: Apply(lambda x: torch.add(torch.tanh(x), 0.5, alpha=2)),
            "a constant with alpha": lambda: Apply(
                lambda x, c: torch.add(torch.tanh(x), c, alpha=-2), random(CHANNELS, 1, 1)
            ),
            "from a number": lambda: Apply(lambda x: 1.5 - torch.tanh(x)),
        },
    ),
    Row(aten.sub.Tensor, "two signals", Family.MERGE, lambda: Apply(operator.sub), signals=2),
    Row(aten.sub.Tensor, "rsub", Family.MERGE, lambda: Apply(lambda x, y: torch.rsub(x, y, alpha=3)), signals=2),
    Row(
        aten.sub.Tensor,
        "the mean of another",
        Family.MERGE,
        lambda: Apply(lambda x, y: x - column_of_means(y)),
        signals=2,
    ),
    *family(aten.sub.Tensor, Family.MERGE, DIFFERENCES_FROM_MEANS, gate=1),
    *family(
        aten.sub.Tensor,
        Family.PASS_THROUGH,
        {
            "a constant": lambda: Apply(lambda x, c: torch.tanh(x) - c, random(CHANNELS, 1, 1)),
            "from a constant": lambda: Apply(lambda x, c: c - torch.tanh(x), random(CHANNELS, 1, 1)),
            "a number": lambda: Apply(lambda x: torch.tanh(x) - 0.7),
            "subtract": lambda: Apply(torch.subtract, random(WIDTH)),
            "rsub": lambda: Apply(lambda x, c: torch.rsub(torch.tanh(x), c), random(WIDTH)),
        },
    ),
]
