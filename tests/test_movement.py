"""How the rewrites spell data movement, and which uses of it they leave to be refused."""

import pytest
import torch
from torch import nn

import agf_fx
from agf_fx.errors import UnsupportedOpError

aten = torch.ops.aten
F = nn.functional
IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """A convolution to (N, 4, 6, 6), what is tested, and a linear head."""

    def __init__(self, function, features=144):
        super().__init__()
        self.function, self.conv, self.fc = function, nn.Conv2d(3, 4, 1), nn.Linear(features, 3)

    def forward(self, x):
        return self.fc(self.function(torch.relu(self.conv(x))).flatten(1))


def calls_of(function, features=144):
    """Names of what stands between the ReLU and the head."""
    model = Network(function, features).eval()
    canonical = agf_fx.capture(model, IMAGES)
    names = [node.target for node in canonical.calls]
    return canonical, names[names.index(aten.relu.default) + 1 : -2]


SPELLINGS = {
    "all of it": (lambda x: x[:, torch.arange(4)], []),
    "every second": (lambda x: x[:, [0, 2]], [aten.slice.Tensor]),
    "reflection by nothing": (lambda x: F.pad(x, (0, 0, 0, 0), mode="reflect"), []),
    "nearest of the same size": (lambda x: F.interpolate(x, size=(6, 6)), []),
    "nearest of a smaller size": (lambda x: F.interpolate(x, size=(3, 6)), [aten.slice.Tensor]),
    "twice": (lambda x: x.repeat_interleave(2, 1), [aten.reshape.default, aten.expand.default, aten.reshape.default]),
    "one entry twice": (lambda x: x[:, :1].tile(2, 1, 1), [aten.slice.Tensor, aten.expand.default]),
    "half a turn": (lambda x: torch.rot90(x, 2, (2, 3)), [aten.index_select.default] * 2),
    "no turn": (lambda x: torch.rot90(x, 4, (2, 3)), []),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_cheapest_spelling_is_taken(name):
    function, expected = SPELLINGS[name]
    assert calls_of(function, function(torch.zeros(1, 4, 6, 6)).numel())[1] == expected


def test_equal_positions_are_one_input():
    canonical, names = calls_of(lambda x: x.flip(2).flip(3) + x.flip(2))
    assert names.count(aten.index_select.default) == 3
    (positions,) = canonical.signature.constants.values()
    assert positions.tolist() == [5, 4, 3, 2, 1, 0]


def test_constants_that_nobody_reads_any_more_are_no_inputs():
    canonical, _ = calls_of(lambda x: x[:, [0, 1]], 72)
    assert not canonical.signature.constants


def test_a_mask_of_the_code_decides_sizes():
    canonical, names = calls_of(lambda x: x[:, torch.tensor([True, False, True, True])].reshape(x.shape[0], -1), 108)
    assert names == [aten.index_select.default]
    (call,) = [node for node in canonical.calls if node.target is aten.index_select.default]
    assert call.meta["type"].sample_shape == (3, 6, 6)


def test_positions_follow_a_buffer():
    model = Network(lambda x: x)
    model.register_buffer("order", torch.tensor([3, -3, 0, 2]))
    model.function = lambda x: x[:, model.order]
    model = model.double().eval()
    images, target = IMAGES.double(), torch.tensor([0, 1])
    explainer = agf_fx.compile(model)
    first = explainer(images, target)
    model.order.copy_(torch.tensor([0, 1, 2, 3]))
    second = explainer(images, target)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(second, agf_fx.compile(model)(images, target), rtol=0, atol=0)


REFUSED = {
    "roll of everything": lambda x: x.roll(1),
    "roll of the batch": lambda x: x.roll(1, 0),
    "flip of the batch": lambda x: x.flip(0),
    "first image": lambda x: x - x[0],
    "first image, counted from the end": lambda x: x - x.select(-4, 0),
    "images by a list": lambda x: x + x[[0]],
    "repeated images": lambda x: x.repeat(2, 1, 1, 1)[: x.shape[0]],
    "concatenated images": lambda x: torch.cat([x, x], 0)[: x.shape[0]],
    "mean of everything": lambda x: x - x.mean(),
    "maximum of everything": lambda x: x - x.amax(),
    "positions of a maximum": lambda x: x * x.max(1, keepdim=True)[1],
    "positions of a pooling": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_samples_or_depends_on_positions_is_refused(name):
    with pytest.raises(UnsupportedOpError, match="no relevance rule for"):
        agf_fx.capture(Network(REFUSED[name]).eval(), IMAGES)
