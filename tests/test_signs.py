"""Negative factors and biases around layers: for every method a part of the layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import agf_fx
from agf_fx.frontend.final import FinalActivationWarning

IMAGES = torch.randn(2, 3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
METHODS = ("agf", "lrp-epsilon", "lrp-zplus", "lrp-alphabeta", "clrp", "sglrp", "epsilon-plus", "lrp-gamma")


class Layers(nn.Module):
    """Two convolutions and a head, called as ``function`` says."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.bias = function, nn.Parameter(torch.randn(8))
        self.conv, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.function(self, x)


def pooled(net, x):
    return net.conv(x).relu().mean((2, 3))


def second(net, x, weight, bias):
    return net.fc(F.conv2d(net.conv(x).relu(), weight, bias, padding=1).relu().mean((2, 3)))


def column(net):
    return net.bias.view(8, 1, 1)


def behind(net, x, function):
    return net.fc(function(net.second(net.conv(x).relu())).relu().mean((2, 3)))


CASES = {
    "negated head": (lambda n, x: -n.fc(pooled(n, x)), lambda n, x: F.linear(pooled(n, x), -n.fc.weight, -n.fc.bias)),
    "negative factor": (
        lambda n, x: n.fc(pooled(n, x)) * -2,
        lambda n, x: F.linear(pooled(n, x), -2 * n.fc.weight, -2 * n.fc.bias),
    ),
    "negated input": (
        lambda n, x: n.fc(n.second(-n.conv(x).relu()).relu().mean((2, 3))),
        lambda n, x: second(n, x, -n.second.weight, n.second.bias),
    ),
    "behind a convolution": (
        lambda n, x: behind(n, x, lambda y: -y),
        lambda n, x: second(n, x, -n.second.weight, -n.second.bias),
    ),
    "softmax": (
        lambda n, x: torch.softmax(-n.fc(pooled(n, x)), 1),
        lambda n, x: F.linear(pooled(n, x), -n.fc.weight, -n.fc.bias),
    ),
    "1 - sigmoid": (
        lambda n, x: 1 - torch.sigmoid(n.fc(pooled(n, x))),
        lambda n, x: F.linear(pooled(n, x), -n.fc.weight, -n.fc.bias),
    ),
    "bias taken off": (
        lambda n, x: behind(n, x, lambda y: y - column(n)),
        lambda n, x: second(n, x, n.second.weight, n.second.bias - n.bias),
    ),
    "bias twice": (
        lambda n, x: behind(n, x, lambda y: y + column(n) + column(n)),
        lambda n, x: second(n, x, n.second.weight, n.second.bias + n.bias + n.bias),
    ),
    "taken from a bias": (
        lambda n, x: behind(n, x, lambda y: column(n) - y),
        lambda n, x: second(n, x, -n.second.weight, n.bias - n.second.bias),
    ),
    "taken from a number": (
        lambda n, x: behind(n, x, lambda y: 1 - y),
        lambda n, x: second(n, x, -n.second.weight, 1 - n.second.bias),
    ),
}


@pytest.mark.filterwarnings(f"ignore::{FinalActivationWarning.__module__}.{FinalActivationWarning.__name__}")
@pytest.mark.parametrize("case", CASES)
def test_factors_and_biases_are_parts_of_the_layer(case):
    written, plain = (Layers(function).double().eval() for function in CASES[case])
    for method in METHODS:
        found, expected = (agf_fx.compile(net, method=method)(IMAGES, [[0, 1], [2, 3]]) for net in (written, plain))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def test_what_others_read_keeps_its_sign():
    """The features in front of the negation are read by a sum, too."""

    def function(net, x):
        h = net.second(net.conv(x).relu())
        return net.fc((h - (-h).relu()).mean((2, 3)))

    model = Layers(function).double().eval()
    torch.testing.assert_close(agf_fx.compile(model).explain(IMAGES, 1).logits, model(IMAGES))
    targets = [str(node.target) for node in agf_fx.capture(model, IMAGES).calls]
    assert "aten.neg.default" in targets
