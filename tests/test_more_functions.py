"""Functions that are written in others: aliases, statistics in pairs, recurrent layers; heads beside other things."""

from __future__ import annotations

import networks
import pytest
import torch
import torchvision
from torch import nn

import agf_fx
from agf_fx.errors import CaptureError

aten = torch.ops.aten


class Net(nn.Module):
    """Features of a small convolution, and what a case makes of them."""

    def __init__(self, function, **parts):
        super().__init__()
        self.conv, self.fc, self.function = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3), (function,)
        for name, part in parts.items():
            setattr(self, name, part)

    def features(self, x):
        return torch.relu(self.conv(x)).mean((2, 3))

    def forward(self, x):
        return self.function[0](self, x)


def net(function, **parts):
    torch.manual_seed(0)
    return Net(function, **parts).double().eval()


def images(*shape):
    return torch.randn(2, *(shape or (3, 6, 7)), generator=torch.Generator().manual_seed(1)).double()


def hooked(x):
    x.register_hook(lambda g: g).remove()
    x.retain_grad()
    return x


PLAIN = net(lambda net, x: net.fc(net.features(x)))
SAME = {
    "t": lambda net, x: net.fc(net.features(x).t().t()),
    "inner": lambda net, x: torch.inner(net.features(x), net.fc.weight) + net.fc.bias,
    "tensordot": lambda net, x: torch.tensordot(net.features(x), net.fc.weight, ([1], [1])) + net.fc.bias,
    "the number of images as len": lambda net, x: net.fc(
        torch.relu(net.conv(x)).reshape(len(x), 4, -1).mean(2) + torch.zeros(len(x), 4).double()
    ),
    "len in a function of elsewhere": lambda net, x: net.fc(networks.flat(net.features(x))),
    "len of a shape": lambda net, x: net.fc(torch.relu(net.conv(x)).mean([*range(2, len(x.shape))])),
    "with hooks on gradients": lambda net, x: net.fc(hooked(net.features(hooked(x * 1)))),
    "with hooks on gradients, exported": lambda net, x: net.fc(hooked(net.features(x if x.dim() == 4 else x[None]))),
    "a decomposed convolution": lambda net, x: net.fc(
        torch.relu(
            aten.convolution.default(x, net.conv.weight, net.conv.bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        ).mean((2, 3))
    ),
}
OTHER = {
    "var_mean": lambda net, x: net.fc(net.features(x - torch.var_mean(x, (1, 2, 3), keepdim=True)[1])),
    "both of var_mean": lambda net, x: net.fc(net.features(x * 2 - sum(torch.var_mean(x, (2, 3), keepdim=True)))),
    "std_mean": lambda net, x: net.fc(net.features(x / torch.std_mean(x, (1, 2, 3), keepdim=True)[0])),
    "std_mean, uncorrected": lambda net, x: net.fc(
        net.features(x / torch.std_mean(x, dim=(2, 3), correction=0, keepdim=True)[0])
    ),
    "frac": lambda net, x: net.fc(net.features(torch.frac(x))),
    "a head normalised from before it": lambda net, x: net.fc(net.features(x)) / net.features(x).mean(1, keepdim=True),
}
RECURRENT = {
    "RNN": nn.RNN(7, 4, batch_first=True),
    "LSTM": nn.LSTM(7, 4, batch_first=True),
    "GRU": nn.GRU(7, 4, batch_first=True),
    "a bidirectional LSTM": nn.LSTM(7, 2, batch_first=True, bidirectional=True),
    "two layers": nn.GRU(7, 4, 2, batch_first=True),
}


@pytest.mark.parametrize("case", SAME)
def test_aliases_have_the_maps_of_the_plain_spelling(case):
    expected = agf_fx.compile(PLAIN).explain(images(), 1)
    found = agf_fx.compile(net(SAME[case])).explain(images(), 1)
    torch.testing.assert_close(found.maps, expected.maps, rtol=0, atol=1e-10)


def gradient_times_input(model, x, target):
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, target].sum(), leaf)
    return (x * gradient).sum(1)


@pytest.mark.parametrize("case", OTHER)
def test_others_have_the_gradient_of_autograd(case):
    model, x = net(OTHER[case]), images()
    result = agf_fx.compile(model, method="gradient_x_input").explain(x, 1)
    torch.testing.assert_close(result.logits, model(x).detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.maps[:, 0], gradient_times_input(model, x, 1), rtol=1e-8, atol=1e-10)
    assert agf_fx.compile(model).explain(x, 1).maps.isfinite().all()


@pytest.mark.parametrize("case", RECURRENT)
def test_recurrent_layers_are_written_out(case):
    model = net(lambda net, x: net.fc(net.recurrent(x.mean(1))[0].mean(1)), recurrent=RECURRENT[case])
    x = images(3, 5, 7)
    result = agf_fx.compile(model, method="gradient_x_input").explain(x, 1)
    torch.testing.assert_close(result.maps[:, 0], gradient_times_input(model, x, 1), rtol=1e-8, atol=1e-10)
    assert agf_fx.compile(model).explain(x, 1).maps.abs().max() > 0


def test_prototypes_are_refused_and_not_taken_for_a_head_before_them():
    model = net(lambda net, x: -((net.features(x)[:, None] - net.fc.weight) ** 2).sum(-1))
    with pytest.raises(CaptureError, match="no head to start from"):
        agf_fx.compile(model)(images(), 1)


def test_logits_of_several_depths_are_refused():
    model = net(lambda net, x: (lambda features: net.fc(features) + features[:, :3])(net.features(x)))
    with pytest.raises(CaptureError, match="mix layers of several depths"):
        agf_fx.compile(model)(images(), 1)


def test_a_network_that_waits_to_be_quantised_is_a_floating_point_network():
    torch.manual_seed(0)
    model = torchvision.models.quantization.shufflenet_v2_x0_5(weights=None, quantize=False, num_classes=3).eval()
    assert agf_fx.compile(model)(torch.randn(1, 3, 32, 32), 1).shape == (1, 32, 32)


class TwoInputs(Net):
    def forward(self, x, y):
        return self.fc(self.features(x)) + y


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TwoInputs(None).double().eval(), r"forward takes more than images.*argument: 'y'"),
        (net(lambda net, x: (net.fc(net.features(x)),) * 2), r"must return one tensor.*output=\.\.\."),
        (
            net(lambda net, x: torch.stack([net.fc(net.features(i[None]))[0] for i in x])),
            r"one batch size only at .*test_more_functions.*for i in x",
        ),
        (
            net(lambda net, x: torch.cat(net.fc(net.features(torch.cat([x, x.flip(3)]))).chunk(2), 1)),
            r"one batch size only at .*test_more_functions.*chunk",
        ),
        (net(lambda net, x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255)), "could not be captured"),
    ],
)
def test_errors_say_what_is_wrong_and_speak_of_shape_only_where_it_is(model, message):
    with pytest.raises(CaptureError, match=message) as caught:
        agf_fx.compile(model)(images(), 1)
    assert "images of this shape" not in str(caught.value)


def test_a_wrong_shape_is_still_called_that():
    with pytest.raises(CaptureError, match="accepts images of this shape"):
        agf_fx.compile(PLAIN)(images(5, 6, 7), 1)


def at_bounds(net, x):
    return net.fc(net.features(x.clamp(-1, 1)))


def tied(net, x):
    return net.fc(net.features(x * x.amax(1, keepdim=True)))


def uncorrected(net, x):
    return net.fc(net.features(x * torch.var(x, (2, 3), correction=None, keepdim=True)))


def grouped(net, x):
    q = x.reshape(-1, 4, 3, 6)
    k, v = q[:, :2] * 2, q[:, 1:3].flip(3)
    mixed = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return net.fc(net.features(mixed.reshape(-1, 3, 4, 6) + x))


@pytest.mark.parametrize(("function", "shape"), [(at_bounds, ()), (tied, ()), (uncorrected, ()), (grouped, (3, 4, 6))])
def test_bounds_ties_and_groups_have_the_gradient_of_autograd(function, shape):
    """Entries are whole numbers, so that they are equal, and at bounds, where it matters."""
    model, x = net(function), images(*shape).mul(1.5).round()
    result = agf_fx.compile(model, method="gradient_x_input", channel_dim=1).explain(x, 1)
    torch.testing.assert_close(result.logits, model(x).detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.maps[:, 0], gradient_times_input(model, x, 1), rtol=1e-8, atol=1e-10)
