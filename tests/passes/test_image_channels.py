import pytest
import torch
from torch import nn

import agf_fx
from agf_fx.errors import CaptureError, OptionsError
from agf_fx.ir.facts import UNCLEAR, facts
from agf_fx.pipeline import analyse

F = nn.functional


class Net(nn.Module):
    """A convolutional classifier, or a perceptron, behind ``movement``."""

    def __init__(self, movement, channels=3, features=None):
        super().__init__()
        self.movement = (movement,)
        first = nn.Conv2d(channels, 4, 3, padding=1) if features is None else nn.Linear(features, 4)
        self.first, self.fc = first, nn.Linear(4, 3)

    def forward(self, images):
        y = torch.relu(self.first(self.movement[0](images)))
        return self.fc(y.mean((2, 3)) if y.dim() == 4 else y.mean(1) if y.dim() == 3 else y)


def net(movement, **options) -> nn.Module:
    torch.manual_seed(0)
    return Net(movement, **options).double().eval()


def patches(x):
    return x.reshape(-1, 3, 2, 4, 3, 4).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def views(x):
    return x.reshape(-1, *x.shape[2:])


CASES = {
    "channels first": (lambda x: x, {}, (3, 8, 12), 1),
    "one channel": (lambda x: x, {"channels": 1}, (1, 8, 12), 1),
    "channels last": (lambda x: x.permute(0, 3, 1, 2), {}, (8, 12, 3), 3),
    "one channel, last": (lambda x: x.permute(0, 3, 1, 2), {"channels": 1}, (8, 12, 1), 3),
    "grey": (lambda x: x[:, None], {"channels": 1}, (8, 12), None),
    "grey, repeated": (lambda x: x[:, None].expand(-1, 3, -1, -1), {}, (8, 12), None),
    "flat": (lambda x: x.view(-1, 3, 8, 12), {}, (288,), None),
    "one channel of three": (lambda x: x[:, 1:2], {"channels": 1}, (3, 8, 12), 1),
    "one channel, selected": (lambda x: x[:, 1][:, None], {"channels": 1}, (3, 8, 12), 1),
    "space to depth": (lambda x: F.pixel_unshuffle(x, 2), {"channels": 12}, (3, 8, 12), 1),
    "every other pixel": (lambda x: torch.cat([x[..., ::2], x[..., 1::2]], 1), {"channels": 6}, (3, 8, 12), 1),
    "repeated, and shuffled": (lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2), {}, (3, 8, 12), 1),
    "shuffled, of many channels": (lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2)[:, :3], {}, (9, 8, 12), UNCLEAR),
    "resized": (lambda x: F.interpolate(x, (9, 7), mode="bilinear"), {}, (3, 8, 12), 1),
    "normalised": (lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True), {}, (3, 8, 12), 1),
    "patches": (patches, {"features": 48}, (3, 8, 12), 1),
    "tokens": (lambda x: x, {"features": 5}, (8, 5), 2),
    "perceptron": (lambda x: x.flatten(1), {"features": 288}, (3, 8, 12), 1),
    "perceptron, channels last": (lambda x: x.flatten(1), {"features": 288}, (8, 12, 3), 3),
    "perceptron of a grey image": (lambda x: x.flatten(1), {"features": 96}, (8, 12), None),
    "perceptron of a vector": (lambda x: x, {"features": 96}, (96,), None),
    "perceptron of many channels": (lambda x: x.flatten(1), {"features": 480}, (5, 8, 12), UNCLEAR),
}


@pytest.mark.parametrize("case", CASES)
def test_image_channels(case):
    movement, options, shape, expected = CASES[case]
    canonical = analyse(agf_fx.capture(net(movement, **options), torch.zeros(1, *shape).double()))
    assert facts(canonical.images).channel_dim == expected


def test_views_are_positions():
    model = net(views)
    model.fc = nn.Sequential(nn.Linear(4, 3), nn.Unflatten(0, (-1, 2)), nn.Flatten(1), nn.Linear(6, 3)).double()
    images = torch.randn(2, 2, 3, 8, 12).double()
    assert agf_fx.compile(model).explain(images).maps.shape == (2, 1, 2, 8, 12)


@pytest.mark.parametrize("method", ["agf", "gradient_x_input"])
def test_a_model_that_takes_channels_last_has_the_maps_of_the_one_that_takes_them_first(method):
    images = torch.randn(2, 3, 8, 12).double()
    expected = agf_fx.compile(net(lambda x: x), method=method)(images, 1)
    found = agf_fx.compile(net(lambda x: x.permute(0, 3, 1, 2)), method=method)(images.permute(0, 2, 3, 1), 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_user_says_what_is_unclear():
    model = net(lambda x: x.flatten(1), features=480)
    images = torch.randn(2, 5, 8, 12).double()
    with pytest.raises(CaptureError, match=r"channel_dim=1.*channel_dim=None"):
        agf_fx.compile(model)(images)
    every = agf_fx.compile(model, channel_dim=None)(images, 1)
    assert every.shape == (2, 5, 8, 12)
    for dim, shape in {1: (2, 8, 12), 3: (2, 5, 8)}.items():
        maps = agf_fx.compile(model, channel_dim=dim)(images, 1)
        assert maps.shape == shape
        torch.testing.assert_close(maps, every.sum(dim))
    with pytest.raises(OptionsError, match="from 1 to 3"):
        agf_fx.compile(model, channel_dim=4)(images)
    with pytest.raises(OptionsError, match="channel_dim is 'last'"):
        agf_fx.compile(model, channel_dim="last")


@pytest.mark.parametrize("format", ["torchscript", "export", "onnx"])
def test_files_sum_over_the_same_dimension(format, tmp_path):
    torch.manual_seed(0)
    model = Net(lambda x: x.permute(0, 3, 1, 2)).eval()
    images = torch.randn(2, 8, 12, 3)
    explainer = agf_fx.compile(model, images)
    path = tmp_path / {"torchscript": "x.pt", "export": "x.pt2", "onnx": "x.onnx"}[format]
    explainer.export(path, format)
    torch.testing.assert_close(agf_fx.load(path)(images, 1), explainer(images, 1), rtol=0, atol=1e-5)
