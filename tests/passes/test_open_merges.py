import pytest
import torch
from torch import Tensor, nn

import agf_fx
from agf_fx.ir.facts import facts
from agf_fx.pipeline import analyse

F = torch.nn.functional


class Net(nn.Module):
    """Feature maps a, b and c, combined by ``function``, and a head."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 4, 1) for _ in range(3))
        self.spatial, self.norm, self.flat = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(100, 4)
        self.function, self.fc = function, nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        found = self.function(self, self.a(images), self.b(images), self.c(images))
        return self.fc(found.mean((2, 3)) if found.dim() == 4 else found)


def open_merges(function) -> list[bool]:
    """For every sum, in order, whether it is marked."""
    canonical = analyse(agf_fx.capture(Net(function).eval(), torch.zeros(1, 3, 5, 5)))
    return [facts(node).open_merge for node in canonical.calls if facts(node).residual_merge]


def read_twice(net: Net, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    both = a + b
    return torch.relu(both) + net.norm(both)


def gate_only(net: Net, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The first sum is read by a ReLU, and by a product as a gate."""
    gate = (a + b).mean((2, 3), keepdim=True)
    scaled = c * gate
    return torch.relu(scaled + c)


def relu_and_gate(net: Net, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    both = torch.sigmoid(a) + torch.sigmoid(b)
    return torch.relu(both) + net.norm(c * both)


def residual_block(net: Net, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """A sum that the next basic block reads: its convolution has residual terms, and its own sum closes."""
    x = torch.relu(a + b)
    return torch.relu(net.c(torch.relu(net.spatial(x))[:, :3]) + x)


def spatial_gate(net: Net, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """A sum that a spatial convolution reads, but only for a gate, which has no relevance."""
    x = torch.relu(a + b)
    return torch.relu(x * torch.sigmoid(net.spatial(x)))


CASES = {
    "ReLU": (lambda net, a, b, c: torch.relu(a + b), [False]),
    "nothing": (lambda net, a, b, c: a + b, [True]),
    "GELU": (lambda net, a, b, c: F.gelu(a + b), [True]),
    "ReLU6, which has no zeros in its relevance": (lambda net, a, b, c: F.relu6(a + b), [True]),
    "a normalisation before the ReLU": (lambda net, a, b, c: torch.relu(net.norm(a + b)), [True]),
    "a sum before the ReLU": (lambda net, a, b, c: torch.relu((a + b) - c), [False, False]),
    "a sum before nothing": (lambda net, a, b, c: (a + b) + c, [True, True]),
    "movement before the ReLU": (lambda net, a, b, c: torch.relu(torch.cat([a + b, c], 1).flip(1))[:, 2:6], [False]),
    "movement before nothing": (lambda net, a, b, c: (a + b).flip(1), [True]),
    "a ReLU and another reader": (read_twice, [True, True]),
    "a gate": (gate_only, [True, False]),
    "a ReLU and a reader that takes it for a gate": (relu_and_gate, [False, True]),
    "a spatial convolution behind the ReLU": (lambda net, a, b, c: net.spatial(torch.relu(a + b)), [True]),
    "a spatial convolution behind ReLU, pool and movement": (
        lambda net, a, b, c: net.spatial(F.max_pool2d(torch.relu(a + b), 2).flip(1)),
        [True],
    ),
    "a spatial convolution behind a mean": (
        lambda net, a, b, c: net.spatial(F.avg_pool2d(torch.relu(a + b), 2)),
        [False],
    ),
    "a pointwise convolution behind the ReLU": (lambda net, a, b, c: net.a(torch.relu(a + b)[:, :3]), [False]),
    "the next basic block": (residual_block, [True, False]),
    "a spatial convolution for a gate": (spatial_gate, [False]),
    "a flatten boundary": (lambda net, a, b, c: F.relu(net.flat(torch.relu(a + b).flatten(1))), [True]),
    "a difference from its mean": (lambda net, a, b, c: a - a.mean(1, keepdim=True), [False]),
}


@pytest.mark.parametrize("case", CASES)
def test_open_merges(case):
    function, expected = CASES[case]
    assert open_merges(function) == expected
