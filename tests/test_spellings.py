"""Every pass of the spellings fires, and leaves the logits as they were."""

import pytest
import torch
from emission import weights
from torch import fx, nn

import agf_fx
from agf_fx.ir.activations import passes_through
from agf_fx.ir.channels import channel_dim
from agf_fx.passes.gates import mark_gates

aten = torch.ops.aten
F = nn.functional
IMAGES = torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Apply(nn.Module):
    """A function of the images and of three layers, and a linear head."""

    def __init__(self, function, features=144):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.features = function, features
        self.conv, self.pair, self.fc = nn.Conv2d(4, 4, 3), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(features, 3)

    def forward(self, x):
        return self.fc(self.function(self, x).reshape(-1, self.features))


def captured(function, features=144):
    """The canonical graph, after a look at the logits, and the operations on the images before the head."""
    model = Apply(function, features).double().eval()
    canonical = agf_fx.capture(model, IMAGES)
    logits = fx.GraphModule(nn.Module(), canonical.graph)(IMAGES, *weights(canonical, model).values())
    torch.testing.assert_close(logits, model(IMAGES), rtol=0, atol=1e-12)
    calls = [node for node in canonical.calls if node.meta["depends_on_images"]]
    return calls, [node.target for node in calls if node.target is not aten.reshape.default][:-1]


CASES = {
    "stack": (
        lambda net, x: torch.stack([x, net.pair(x[:, :2]).repeat(1, 2, 1, 1)]).sum(0),
        aten.add.Tensor,
        aten.cat.default,
    ),
    "choice": (lambda net, x: torch.where(x > 0, x, 0), aten.relu.default, aten.masked_fill.Scalar),
    "absolute": (lambda net, x: (x + x.abs()) / 2, aten.relu.default, aten.add.Tensor),
    "two clamps": (lambda net, x: torch.relu(x).clamp(max=6), aten.clamp.default, aten.relu.default),
    "larger": (lambda net, x: torch.maximum(x, 0.2 * x), aten.leaky_relu.default, aten.amax.default),
    "quotient": (lambda net, x: 1 / (1 + torch.exp(-x)), aten.sigmoid.default, aten.exp.default),
    "interpolation": (
        lambda net, x: x + 0.3 * (x.flatten(2).abs() - x.flatten(2)).reshape(-1, 4, 6, 6),
        aten.add.Tensor,
        aten.sub.Tensor,
    ),
    "shares": (
        lambda net, x: (lambda e: e / e.sum(1, keepdim=True))((x - x.amax(1, keepdim=True)).exp()),
        aten.softmax.int,
        aten.div.Tensor,
    ),
    "total": (
        lambda net, x: x.sum((2, 3), keepdim=True).expand(-1, -1, 6, 6) / 36,
        aten.sum.dim_IntList,
        aten.mean.dim,
    ),
    "chunks": (
        lambda net, x: torch.cat([net.pair(x[:, :2]), net.pair(x[:, 2:])], 1),
        aten.conv2d.default,
        aten.cat.default,
    ),
    "pieces": (
        lambda net, x: (lambda both: both[:, :4] + both[:, 4:])(torch.cat([x, torch.relu(x)], 1)),
        aten.add.Tensor,
        aten.cat.default,
    ),
    "entries": (
        lambda net, x: sum(torch.stack([x, torch.relu(x)], 1).unbind(1)),
        aten.add.Tensor,
        aten.select.int,
    ),
    "halves": (
        lambda net, x: (lambda y: torch.cat([x[:, :1] + y[:, :1], x[:, 1:] + y[:, 1:]], 1))(torch.relu(x.flip(3))),
        aten.add.Tensor,
        aten.cat.default,
    ),
    "turned twice": (
        lambda net, x: (torch.relu(x).flip(3) + x.abs().flip(3)).flip(3),
        aten.add.Tensor,
        aten.index_select.default,
    ),
    "padded, and cut to what it was": (
        lambda net, x: net.conv(F.pad(F.pad(x, (0, 0, 2, 3, 0, 1))[:, : x.shape[1], 2:-3], (1, 1, 1, 1))),
        aten.conv2d.default,
        aten.constant_pad_nd.default,
    ),
    "cropped by negative padding": (
        lambda net, x: net.conv(F.pad(F.pad(x, (2, 2, 2, 2)), (-1, -1, -1, -1))),
        aten.conv2d.default,
        aten.constant_pad_nd.default,
    ),
    "parts": (lambda net, x: torch.relu(torch.cat([x[:, :1], x[:, 1:]], 1)), aten.relu.default, aten.cat.default),
    "detour": (lambda net, x: torch.relu(x.movedim(1, -1).movedim(-1, 1)), aten.relu.default, aten.permute.default),
    "padding": (lambda net, x: net.conv(F.pad(x, (1, 1, 1, 1))), aten.conv2d.default, aten.constant_pad_nd.default),
    "zeros": (
        lambda net, x: net.conv(torch.cat([x.new_zeros(x.shape[0], 4, 2, 6), x], 2))[..., :4].repeat(1, 1, 1, 2)[
            :, :, :, :6
        ],
        aten.conv2d.default,
        aten.constant_pad_nd.default,
    ),
    "products": (
        lambda net, x: (x.flatten(1)[:, None] * net.fc.weight).sum(-1).repeat(1, 48),
        aten.linear.default,
        aten.mul.Tensor,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_pass_fires_and_the_logits_stay(case):
    function, made, gone = CASES[case]
    _, targets = captured(function)
    assert made in targets
    assert gone not in targets


def test_padding_of_different_sides_is_that_of_a_larger_kernel():
    calls, _ = captured(lambda net, x: F.conv2d(F.pad(x, (0, 1, 2, 1)), net.conv.weight, net.conv.bias, stride=2), 48)
    (layer,) = [node for node in calls if node.target is aten.conv2d.default]
    assert layer.args[4] == [2, 1]
    assert layer.args[1].meta["type"].shape == (4, 4, 4, 4)


def test_a_factor_stands_in_front_of_a_sum():
    calls, targets = captured(lambda net, x: torch.stack([x, net.pair(x[:, :2]).repeat(1, 2, 1, 1)]).mean(0))
    assert targets[-1] is aten.add.Tensor
    (total,) = [node for node in calls if node.target is aten.add.Tensor]
    assert [term.args[1] for term in total.args] == [0.5, 0.5]


def test_an_activation_by_hand_passes_relevance_through():
    model = Apply(lambda net, x: x * torch.tanh(F.softplus(x)) + x * x).double().eval()
    canonical = mark_gates(agf_fx.capture(model, IMAGES))
    assert [passes_through(node) for node in canonical.calls if node.target is aten.mul.Tensor] == [True, False]


@pytest.mark.parametrize(
    ("function", "dims"),
    [
        (lambda net, x: torch.relu(net.pair(x[:, :2])).permute(0, 2, 3, 1), [1, 1, 3]),
        (lambda net, x: F.linear(x.permute(0, 2, 3, 1), torch.ones(2, 4, dtype=x.dtype)).flatten(1, 2), [3, 2]),
    ],
)
def test_channels_are_followed(function, dims):
    model = Apply(lambda net, x: function(net, x).flatten(1), 72).double().eval()
    calls = agf_fx.capture(model, IMAGES).calls
    start = next(i for i, node in enumerate(calls) if node.target in (aten.conv2d.default, aten.linear.default))
    assert [channel_dim(node) for node in calls[start : start + len(dims)]] == dims
