"""What a row of the table of operations is: one use of one operation, as a layer inside a small classifier."""

from __future__ import annotations

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
        times: how often the operation occurs in the canonical graph.
        gate: which operand of a product, quotient or difference is the gate; None: neither.
        on_gate: whether the operation stands on the way to a gate only, where no relevance passes.
        rtol: how far relevance may be from the oracle, relative to each entry.
    """

    op: Callable[..., Any]
    label: str
    family: Family
    build: Callable[[], nn.Module]
    signals: int = 1
    behind_head: bool = False
    times: int = 1
    gate: int | None = None
    on_gate: bool = False
    rtol: float = 1e-9


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


def line(x: Tensor) -> Tensor:
    """A feature map with one spatial dimension: (N, CHANNELS, HEIGHT · WIDTH)."""
    return x.flatten(2)


def volume(x: Tensor) -> Tensor:
    """A feature map with three spatial dimensions: (N, 2, CHANNELS / 2, HEIGHT, WIDTH)."""
    return x.unflatten(1, (2, -1))


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


def family(op: Callable[..., Any], family: Family, rows: dict[str, Callable[[], nn.Module]], **more: Any) -> list[Row]:
    return [Row(op, label, family, build, **more) for label, build in rows.items()]
