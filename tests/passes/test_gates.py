from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import agf_fx
from agf_fx.ir.facts import facts
from agf_fx.ir.vocabulary import operands
from agf_fx.passes.gates import mark_gates

F = torch.nn.functional


class Net(nn.Module):
    """Two feature maps a and b (N, 4, 6, 6), combined by ``function``, and a head."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.mix = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.function = function
        self.fc = nn.LazyLinear(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.function(self, self.a(images), self.b(images)).flatten(1))


def marked(function, name: str = "gate") -> list[tuple[str, int | None]]:
    """Of every product, quotient and difference of two signals: its operation and the position of its gate."""
    model = Net(function).eval()
    images = torch.zeros(2, 3, 6, 6)
    model(images)
    canonical = mark_gates(agf_fx.capture(model, images))
    found = []
    for node in canonical.calls:
        given = [operand.name for operand in operands(node) if isinstance(operand, torch.fx.Node)]
        fact = getattr(facts(node), name)
        if fact is not None:
            found.append((node.target.overloadpacket.__name__, given.index(fact)))
    return found


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


def selective_kernel(net: Net, a: Tensor, b: Tensor) -> Tensor:
    """SKNet: a softmax over branches weighs them, channel by channel."""
    branches = torch.stack([a, b], 1)
    weights = torch.stack([net.mix(pooled(a)), net.mix(pooled(b))], 1).softmax(1)
    return (branches * weights).sum(1)


def coordinate_attention(net: Net, a: Tensor, b: Tensor) -> Tensor:
    """One gate per row, and one per column."""
    return a * net.mix(b.mean(3, keepdim=True)).sigmoid() * net.mix(b.mean(2, keepdim=True)).sigmoid()


def convolutional_block_attention(net: Net, a: Tensor, b: Tensor) -> Tensor:
    """CBAM: a channel gate from two poolings, then a spatial one."""
    a = a * torch.sigmoid(net.mix(pooled(a)) + net.mix(a.amax((2, 3), keepdim=True)))
    return a * torch.sigmoid(a.mean(1, keepdim=True) + a.amax(1, keepdim=True))


def lstm_output(net: Net, a: Tensor, b: Tensor) -> Tensor:
    """Of two bounded functions the sigmoid is the gate (Arras et al. 2017)."""
    return torch.tanh(a) * torch.sigmoid(b)


GATES = {
    "squeeze-excite": (lambda net, a, b: net.mix(pooled(a)).sigmoid() * a, [("mul", 0)]),
    "squeeze-excite of what a sigmoid made": (
        lambda net, a, b: a.sigmoid() * net.mix(pooled(b)).sigmoid(),
        [("mul", 1)],
    ),
    "selective kernel": (selective_kernel, [("mul", 1)]),
    "coordinate attention": (coordinate_attention, [("mul", 1), ("mul", 1)]),
    "convolutional block attention": (convolutional_block_attention, [("mul", 1), ("mul", 1)]),
    "residual attention": (lambda net, a, b: (1 + net.mix(b).sigmoid()) * a, [("mul", 0)]),
    "ReLU6 for a hard sigmoid": (lambda net, a, b: a * (F.relu6(b + 3) / 6), [("mul", 1)]),
    "LSTM": (lstm_output, [("mul", 1)]),
    "tanh": (lambda net, a, b: torch.tanh(a) * b, [("mul", 0)]),
    "erf": (lambda net, a, b: a * (1 + torch.erf(a / 2**0.5)) / 2, [("mul", 1)]),
    "two-sided clamp": (lambda net, a, b: a * b.clamp(0, 1), [("mul", 1)]),
    "one-sided clamp": (lambda net, a, b: a * b.clamp(min=0.1), []),
    "average of a gate": (lambda net, a, b: a * F.avg_pool2d(b.sigmoid(), 3, 1, 1), [("mul", 1)]),
    "product of gates": (lambda net, a, b: a * (b.sigmoid() * b.flip(1).sigmoid()), [("mul", 1)]),
    "gates next to each other": (lambda net, a, b: a * torch.cat(b.sigmoid().chunk(2, 1)[::-1], 1), [("mul", 1)]),
    "a gate and a signal next to each other": (lambda net, a, b: a * torch.cat([b[:, :2].sigmoid(), b[:, 2:]], 1), []),
    "a convolution of a gate": (lambda net, a, b: a * net.mix(b.sigmoid()), []),
    "two signals": (lambda net, a, b: a * b, []),
    "gated by SiLU": (lambda net, a, b: F.silu(a) * b, []),
    "two gates": (lambda net, a, b: a.sigmoid() * b.sigmoid(), []),
    "a square": (lambda net, a, b: torch.tanh(a) ** 2, []),
    "matrices of one kind": (lambda net, a, b: a.sigmoid() @ b.sigmoid(), []),
    "quotient": (lambda net, a, b: a / (1 + b.abs()), [("div", 1)]),
    "quotient of constants": (lambda net, a, b: a * torch.sigmoid(1 / (1 + b.abs())), [("mul", 1)]),
    "weights by their sum": (
        lambda net, a, b: a * (b.sigmoid() / b.sigmoid().sum(1, keepdim=True)),
        [("div", 1), ("mul", 1)],
    ),
    "difference from the mean": (lambda net, a, b: a - a.mean(1, keepdim=True), [("sub", 1)]),
    "difference from another mean": (lambda net, a, b: a - b.mean(1, keepdim=True), []),
    "global response norm": (
        lambda net, a, b: (
            a * (a.norm(dim=(2, 3), keepdim=True) / (1e-6 + a.norm(dim=(2, 3), keepdim=True).mean(1, True)))
        ),
        [("div", 1), ("mul", 1)],
    ),
    "constants": (lambda net, a, b: a * torch.full((4, 1, 1), 0.3).sigmoid() / 3 - 1, []),
}


@pytest.mark.parametrize("case", GATES)
def test_gates(case):
    function, expected = GATES[case]
    assert marked(function) == expected


def scores(a: Tensor, b: Tensor) -> Tensor:
    return (a.flatten(2).transpose(1, 2) @ b.flatten(2)) / 2


ATTENTION = {
    "weights first": (lambda net, a, b: scores(a, b).softmax(-1) @ b.flatten(2).transpose(1, 2), [("matmul", 0)]),
    "values first": (lambda net, a, b: a.flatten(2) @ scores(a, b).softmax(-1).transpose(1, 2), [("matmul", 1)]),
    "weights divided by their sum": (
        lambda net, a, b: (
            a.flatten(2) @ (scores(a, b).softmax(1) / (1e-9 + scores(a, b).softmax(1).sum(2, keepdim=True)))
        ),
        [("matmul", 1)],
    ),
    "no softmax": (lambda net, a, b: (scores(a, b) / 36) @ b.flatten(2).transpose(1, 2), []),
    "sigmoid": (lambda net, a, b: scores(a, b).sigmoid() @ b.flatten(2).transpose(1, 2), []),
    "two softmaxes": (lambda net, a, b: scores(a, b).softmax(-1) @ scores(b, a).softmax(-1), []),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_attention_weights(case):
    function, expected = ATTENTION[case]
    assert marked(function, "attention") == expected
