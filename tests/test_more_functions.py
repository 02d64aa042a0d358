"""Functions that are written in others: aliases, statistics in pairs, recurrent layers; heads beside other things."""

from __future__ import annotations

import networks
import pytest
import torch
import torchvision
import torchvision.transforms.v2
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
    "vecdot": lambda net, x: torch.linalg.vecdot(net.features(x)[:, None], net.fc.weight) + net.fc.bias,
    "a mean in its own dtype": lambda net, x: net.fc(torch.relu(net.conv(x)).mean((2, 3), dtype=x.dtype)),
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


RARE = {
    "fmax": lambda x, y: torch.fmax(x, y),
    "fmax, of a number": lambda x, y: torch.fmax(x, torch.tensor(0.5)),
    "fmin": lambda x, y: torch.fmin(x, y[:, :, :1]),
    "clamp by tensors": lambda x, y: x.clamp(-y.abs(), y.abs() + 1),
    "clamp_max by a tensor": lambda x, y: torch.clamp_max(x, y),
    "copysign": torch.copysign,
    "copysign, of a number": lambda x, y: x * torch.copysign(torch.tensor(2.0), y) - torch.copysign(x, -1.0),
    "xlogy": lambda x, y: torch.xlogy(x, y.relu() + 1) + torch.xlogy(x.relu(), (x > 0).double() * 2),
    "xlogy, of numbers": lambda x, y: torch.xlogy(x, 2.5) + torch.xlogy(0.5, y.abs() + 1),
    "xlog1py": lambda x, y: torch.special.xlog1py(x, y.relu()) + torch.special.xlog1py(x, 0.3),
    "ldexp": lambda x, y: torch.ldexp(x, y) + torch.ldexp(x, torch.tensor(3)),
    "hypot": lambda x, y: torch.hypot(x, y + 0.25),
    "atan2": torch.atan2,
    "pow": lambda x, y: x.abs() ** (y.abs() + 1) + 2**y,
    "remainder": lambda x, y: x % 3 + x % (y.abs() + 0.75),
    "divisions with rounding": lambda x, y: (
        x * torch.div(y, 0.75, rounding_mode="trunc") + x.div(3, rounding_mode=None)
    ),
    "logaddexp": lambda x, y: torch.logaddexp(x * 400, y * 400) + torch.logaddexp2(x, torch.tensor(0.5)),
    "logsumexp": lambda x, y: torch.logsumexp(torch.stack([x * 400, y * 400]), 0),
    "sinc": lambda x, y: torch.sinc(x * 1e-3) + torch.sinc(y),
    "a mask and numbers": lambda x, y: x * ((y > 0) * 2.0 + 0.5) + y * ((x > 0) * 2 + 1),
    "degrees": lambda x, y: torch.rad2deg(x) + torch.deg2rad(y),
    "nan_to_num": lambda x, y: (
        torch.nan_to_num(torch.where(x > 0, y, torch.nan), 1.0)
        + torch.nan_to_num(torch.where(x > 0, y, torch.inf * (x + 0.5).sign()), 2.0, 3.0, -4.0)
    ),
}


@pytest.mark.parametrize("case", RARE)
def test_rare_functions_have_the_gradient_of_autograd_at_edges_too(case):
    """Entries are whole numbers, so that there are zeros and ties."""
    model = net(lambda net, x: net.fc(net.features(RARE[case](x, x.flip(1, 2)))))
    x = images().mul(1.5).round()
    result = agf_fx.compile(model, method="gradient_x_input").explain(x, 1)
    torch.testing.assert_close(result.logits, model(x).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.maps[:, 0], gradient_times_input(model, x, 1), rtol=1e-10, atol=1e-12)
    assert agf_fx.compile(model).explain(x, 1).maps.isfinite().all()


def test_where_autograd_has_no_number_the_gradient_is_0():
    model = net(lambda net, x: net.fc(net.features(torch.hypot(x, 2 * x) + torch.xlogy(x.relu(), x.relu()))))
    x = images().relu()
    assert gradient_times_input(model, x, 1).isnan().any()
    assert agf_fx.compile(model, method="gradient_x_input")(x, 1).isfinite().all()


def test_numbers_that_are_missing_are_passed_over():
    def function(net, x):
        y = torch.where(x > 1, torch.nan, x)
        return net.fc(net.features(torch.fmin(torch.fmax(y, x.flip(3)), torch.fmax(y, torch.tensor(1.5)))))

    model, x = net(function), images()
    result = agf_fx.compile(model, method="gradient_x_input").explain(x, 1)
    torch.testing.assert_close(result.logits, model(x).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.maps[:, 0], gradient_times_input(model, x, 1), rtol=1e-10, atol=1e-12)


def test_heaviside_of_images_alone_is_a_step_and_its_value_at_0_a_constant():
    model = net(lambda net, x: net.fc(net.features(x * torch.heaviside(x, x))))
    with pytest.raises(CaptureError, match="takes heaviside's value at 0 from the images"):
        agf_fx.compile(model)(images(), 1)


@pytest.mark.parametrize("kind", [torchvision.transforms, torchvision.transforms.v2])
def test_normalisation_by_torchvision_is_that_by_hand(kind):
    mean, std = torch.tensor([0.4, 0.5, 0.6]).double(), torch.tensor([0.2, 0.3, 0.25]).double()
    parts = {"normalise": kind.Normalize(mean.tolist(), std.tolist())}
    model = net(lambda net, x: net.fc(net.features(net.normalise(x))), **parts)
    by_hand = net(lambda net, x: net.fc(net.features((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))))
    found, expected = (agf_fx.compile(each).explain(images(), 1) for each in (model, by_hand))
    torch.testing.assert_close(found.logits, model(images()).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-10, atol=1e-12)


def test_logits_times_a_number_for_each_image_have_the_head_of_the_logits():
    def scaled(net, x):
        return net.fc(net.features(x)) * x.abs().mean((1, 2, 3)).unsqueeze(1).expand(-1, 3)

    model = net(scaled)
    result = agf_fx.compile(model).explain(images(), 1)
    torch.testing.assert_close(result.logits, model(images()).detach(), rtol=1e-12, atol=1e-12)
    assert result.maps.isfinite().all()


def test_control_flow_is_refused_by_its_line():
    def decided(net, x):
        return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (net.fc(net.features(x)),))

    with pytest.raises(CaptureError, match=r"(?s)control flow.*torch.where"):
        agf_fx.compile(net(decided))(images(), 1)


class KeywordOnly(nn.Linear):
    def forward(self, *, pixels):
        return super().forward(pixels.flatten(1))


def test_images_by_keyword_only_are_told_plainly():
    with pytest.raises(CaptureError, match="by keyword only"):
        agf_fx.compile(KeywordOnly(126, 3).double())(images(), 1)
