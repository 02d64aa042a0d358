"""One row per operation of the vocabulary and per way of using it, as a layer inside a small classifier."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agf_fx.ir.vocabulary import Family

aten = torch.ops.aten

CHANNELS, HEIGHT, WIDTH = 4, 7, 6
FEATURES = CHANNELS * HEIGHT * WIDTH
CLASSES = 3
DTYPE = torch.float64


@dataclass(frozen=True)
class Row:
    """One use of one operation.

    Attributes:
        op: the canonical operation.
        label: what is special about this use.
        family: the family whose rule must apply.
        build: makes the layer; it reads ``signals`` feature maps (N, CHANNELS, HEIGHT, WIDTH), or, behind the head,
            logits (N, CLASSES).
        signals: how many feature maps the layer reads.
        behind_head: whether the layer stands behind the last linear layer.
        occurs: whether the operation survives in the canonical graph.
    """

    op: Callable[..., Any]
    label: str
    family: Family
    build: Callable[[], nn.Module]
    signals: int = 1
    behind_head: bool = False
    occurs: bool = True


class Classifier(nn.Module):
    """Pointwise convolutions that read the image, the row's layer ``op``, and a linear head."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        self.behind_head = row.behind_head
        self.stems = nn.ModuleList(nn.Conv2d(3, CHANNELS, 1) for _ in range(row.signals))
        self.op = row.build()
        maps = [torch.zeros(1, CHANNELS, HEIGHT, WIDTH) for _ in self.stems]
        self.head = nn.Linear(FEATURES if row.behind_head else self.op.eval()(*maps).numel(), CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        maps = [stem(images) for stem in self.stems]
        if self.behind_head:
            return self.op(self.head(maps[0].flatten(1)))
        return self.head(self.op(*maps).flatten(1))


class Apply(nn.Module):
    """A function of the signals, and of a constant if one is given."""

    def __init__(self, function: Callable[..., Tensor], *constant: Tensor) -> None:
        super().__init__()
        self.function, self.has_constant = function, bool(constant)
        self.register_buffer("constant", *constant or (None,))

    def forward(self, *signals: Tensor) -> Tensor:
        return self.function(*signals, self.constant) if self.has_constant else self.function(*signals)


def tokens(x: Tensor) -> Tensor:
    """A feature map as a sequence: (N, HEIGHT · WIDTH, CHANNELS)."""
    return x.flatten(2).transpose(1, 2)


def times_column(x: Tensor) -> Tensor:
    """Written so that only torch.export can follow it, which leaves the arithmetic of constants in the graph."""
    if x.shape[1] != CHANNELS:
        return x
    return x * torch.linspace(1, 3.7, WIDTH, dtype=DTYPE).to(torch.int64)


def batch_norm(kind: type[nn.Module], affine: bool) -> Callable[[], nn.Module]:
    """A norm with statistics, and with scales of either sign."""

    def build() -> nn.Module:
        norm = kind(CHANNELS, affine=affine)
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        if affine:
            nn.init.uniform_(norm.weight, -2, 2)
            nn.init.uniform_(norm.bias, -1, 1)
        return norm

    return build


def random(*shape: int) -> Tensor:
    """A constant away from zero."""
    return torch.rand(shape) + 0.5


def _family(op: Callable[..., Any], family: Family, rows: dict[str, Callable[[], nn.Module]], **more: Any) -> list[Row]:
    return [Row(op, label, family, build, **more) for label, build in rows.items()]


ROWS: list[Row] = [
    *_family(
        aten.conv2d.default,
        Family.CONVOLUTION,
        {
            "3×3 with bias": lambda: nn.Conv2d(CHANNELS, 5, 3),
            "stride with remainder, no bias": lambda: nn.Conv2d(CHANNELS, 3, 3, stride=2, bias=False),
            "stride and padding": lambda: nn.Conv2d(CHANNELS, 3, 3, stride=(2, 3), padding=(1, 2)),
            "dilation": lambda: nn.Conv2d(CHANNELS, 3, 3, dilation=2, padding=2, bias=False),
            "groups": lambda: nn.Conv2d(CHANNELS, 6, 3, groups=2, padding=1),
            "depthwise": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS, padding=1),
            "asymmetric kernel": lambda: nn.Conv2d(CHANNELS, 3, (1, 4), stride=(2, 1), padding=(0, 2)),
            "padding by name": lambda: nn.Conv2d(CHANNELS, 3, 3, padding="same", dilation=(1, 2)),
            "1×1": lambda: nn.Conv2d(CHANNELS, 2, 1),
        },
    ),
    *_family(
        aten.linear.default,
        Family.LINEAR,
        {
            "with bias": lambda: nn.Sequential(Apply(lambda x: x.mean((2, 3))), nn.Linear(CHANNELS, 5)),
            "no bias": lambda: nn.Sequential(Apply(lambda x: x.mean((2, 3))), nn.Linear(CHANNELS, 5, bias=False)),
            "on tokens": lambda: nn.Sequential(Apply(tokens), nn.Linear(CHANNELS, 3)),
        },
    ),
    *_family(
        aten.relu.default,
        Family.SELECTION,
        {"function": lambda: Apply(torch.relu), "in place": lambda: nn.ReLU(inplace=True)},
    ),
    *_family(
        aten.max_pool2d_with_indices.default,
        Family.SELECTION,
        {
            "with remainder": lambda: nn.MaxPool2d(2),
            "overlapping and padded": lambda: nn.MaxPool2d(3, stride=2, padding=1),
            "ceil_mode": lambda: nn.MaxPool2d(2, ceil_mode=True),
            "dilated": lambda: nn.MaxPool2d((2, 3), stride=1, dilation=(3, 2)),
            "with indices": lambda: Apply(lambda x: nn.functional.max_pool2d(x, 3, 2, return_indices=True)[0]),
        },
    ),
    Row(operator.getitem, "of a pooling's pair", Family.PASS_THROUGH, lambda: nn.MaxPool2d(2)),
    *_family(
        aten.avg_pool2d.default,
        Family.PROPORTIONAL,
        {
            "with remainder": lambda: nn.AvgPool2d(2),
            "padding counted": lambda: nn.AvgPool2d(3, stride=2, padding=1),
            "padding not counted": lambda: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
            "ceil_mode": lambda: nn.AvgPool2d((2, 4), ceil_mode=True),
            "divisor_override": lambda: nn.AvgPool2d(3, stride=1, divisor_override=5),
        },
    ),
    *_family(
        aten.adaptive_avg_pool2d.default,
        Family.PROPORTIONAL,
        {
            "uneven": lambda: nn.AdaptiveAvgPool2d((4, 5)),
            "one size kept": lambda: nn.AdaptiveAvgPool2d((None, 4)),
            "to a point": lambda: nn.AdaptiveAvgPool2d(1),
        },
    ),
    *_family(
        aten.mean.dim,
        Family.PROPORTIONAL,
        {
            "over space": lambda: Apply(lambda x: x.mean((2, 3))),
            "keepdim": lambda: Apply(lambda x: x.mean((-1, -2), keepdim=True)),
            "over channels": lambda: Apply(lambda x: x.mean(1)),
            "one dim": lambda: Apply(lambda x: x.mean(-1)),
        },
    ),
    *_family(
        aten.batch_norm.default,
        Family.PASS_THROUGH,
        {
            "affine": batch_norm(nn.BatchNorm2d, affine=True),
            "not affine": batch_norm(nn.BatchNorm2d, affine=False),
            "of vectors": lambda: nn.Sequential(
                Apply(lambda x: x.mean((2, 3))), batch_norm(nn.BatchNorm1d, affine=True)()
            ),
        },
    ),
    *_family(
        aten.mul.Tensor,
        Family.PASS_THROUGH,
        {
            "by a constant": lambda: Apply(operator.mul, random(CHANNELS, 1, 1)),
            "constant first": lambda: Apply(lambda x, c: c * x, -random(1, CHANNELS, HEIGHT, WIDTH)),
            "by a number": lambda: Apply(lambda x: -3 * x),
            "by a computed constant": lambda: Apply(times_column),
        },
    ),
    *_family(
        aten.div.Tensor,
        Family.PASS_THROUGH,
        {
            "by a constant": lambda: Apply(operator.truediv, random(CHANNELS, 1, 1)),
            "by a number": lambda: Apply(lambda x: x / 3),
            "by a constant of the code": lambda: Apply(lambda x: x / torch.linspace(0.5, 2, WIDTH, dtype=DTYPE)),
        },
    ),
    *_family(
        aten.reshape.default,
        Family.DATA_MOVEMENT,
        {
            "groups of channels": lambda: Apply(lambda x: x.view(-1, 2, CHANNELS // 2, HEIGHT, WIDTH)),
            "flatten": lambda: nn.Flatten(2),
            "unsqueeze": lambda: Apply(lambda x: x.unsqueeze(-1)),
        },
    ),
    *_family(
        aten.permute.default,
        Family.DATA_MOVEMENT,
        {
            "negative dims": lambda: Apply(lambda x: x.permute(0, -1, 1, 2)),
            "transpose": lambda: Apply(lambda x: x.transpose(1, -1)),
        },
    ),
    *_family(
        aten.cat.default,
        Family.DATA_MOVEMENT,
        {
            "three along channels, one twice": lambda: Apply(lambda x, y: torch.cat([x, y, x], 1)),
            "along the last dimension": lambda: Apply(lambda x, y: torch.cat((x, y), -1)),
        },
        signals=2,
    ),
    *_family(
        aten.add.Tensor,
        Family.MERGE,
        {"two signals": lambda: Apply(operator.add), "alpha": lambda: Apply(lambda x, y: torch.add(x, y, alpha=-2))},
        signals=2,
    ),
    Row(aten.add.Tensor, "a signal with itself", Family.MERGE, lambda: Apply(lambda x: x + x)),
    *_family(
        aten.add.Tensor,
        Family.PASS_THROUGH,
        {
            "a constant": lambda: Apply(operator.add, random(CHANNELS, 1, 1)),
            "constant first": lambda: Apply(lambda x, c: c + x, random(1, 1, HEIGHT, WIDTH)),
            "a number": lambda: Apply(lambda x: x + 0.7),
            "a number with alpha": lambda: Apply(lambda x: torch.add(x, 0.5, alpha=2)),
            "a constant with alpha": lambda: Apply(lambda x, c: torch.add(x, c, alpha=-2), random(CHANNELS, 1, 1)),
            "from a number": lambda: Apply(lambda x: 1.5 - x),
        },
    ),
    Row(aten.sub.Tensor, "two signals", Family.MERGE, lambda: Apply(operator.sub), signals=2),
    *_family(
        aten.sub.Tensor,
        Family.PASS_THROUGH,
        {
            "a constant": lambda: Apply(operator.sub, random(CHANNELS, 1, 1)),
            "from a constant": lambda: Apply(lambda x, c: c - x, random(CHANNELS, 1, 1)),
            "a number": lambda: Apply(lambda x: x - 0.7),
        },
    ),
    *[
        Row(op, "behind the head", Family.TAIL, build, behind_head=True)
        for op, build in {
            aten.sigmoid.default: nn.Sigmoid,
            aten.softmax.int: lambda: nn.Softmax(dim=-1),
            aten.log_softmax.int: lambda: nn.LogSoftmax(dim=1),
        }.items()
    ],
]
