import torch
from networks import basic_resnet, small_vgg
from optimising import around
from torch import nn

from agf_fx.ir.text import call
from agf_fx.ir.vocabulary import TRANSPOSED_CONVOLUTIONS
from agf_fx.passes.sibling_products import stack_sibling_products

aten = torch.ops.aten


class HeavyWeight(nn.Module):
    """A full convolution whose weight is much larger than a sample of its output."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 24, 3), nn.Linear(24, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(torch.relu(self.stem(x)))).flatten(1))


def test_before_and_after():
    torch.manual_seed(0)
    found = around(stack_sibling_products, HeavyWeight().double().eval(), 7)
    geometry = "None, [1, 1], [0, 0], [0, 0], 1, [1, 1])"
    assert (
        transposed(found.before, "conv", "relevance")
        == [
            f"%conv_C_13 = conv_transpose2d.input(%conv_C_12, %conv_C_1, {geometry}",
            f"%conv_A_14 = conv_transpose2d.input(%conv_A_13, %conv_C_1, {geometry}",
        ]
        or len(transposed(found.before, "conv", "relevance")) == 2
    )
    (joint,) = [n for n in found.after.graph.nodes if is_transposed(n, "conv", "relevance")]
    assert joint.args[0].target is aten.cat.default
    assert joint.args[0].args[1] == 0
    assert [user.target for user in joint.users] == [aten.chunk.default]
    assert found.difference <= 1e-12


def test_the_two_products_of_the_input_layer_share_their_operand():
    for model, size in ((small_vgg(), 16), (basic_resnet(), 32)):
        found = around(stack_sibling_products, model, size)
        stem = next(n.meta["layer"] for n in found.before.graph.nodes if n.meta.get("rule") == "z_box")
        assert len(transposed(found.before, stem, "relevance")) == 2
        (joint,) = [n for n in found.after.graph.nodes if is_transposed(n, stem, "relevance")]
        assert joint.args[1].target is aten.cat.default
        assert joint.args[1].args[1] == 1
        assert found.difference <= 1e-12


def test_light_weights_and_dependent_products_stay():
    found = around(stack_sibling_products, small_vgg(), 16)
    layers = {n.meta["layer"] for n in found.before.graph.nodes if n.meta.get("rule") == "guided_convolution"}
    for layer in layers:
        assert transposed(found.after, layer, "relevance") == transposed(found.before, layer, "relevance")


class SharedOperand(nn.Module):
    """Two layers of one geometry get the same relevance and gradient, and have other channels or kernels."""

    def __init__(self):
        super().__init__()
        self.first, self.stem = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 4, 3)
        self.a, self.b, self.c, self.fc = (
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Conv2d(6, 5, 1),
            nn.Conv2d(4, 5, 1),
            nn.Linear(5, 3),
        )

    def forward(self, x):
        x = torch.relu(self.stem(torch.relu(self.first(x))))
        return self.fc(torch.relu(self.b(torch.relu(self.a(x))) + self.c(x)).mean((2, 3)))


def test_products_of_different_layers_stay():
    torch.manual_seed(0)
    found = around(stack_sibling_products, SharedOperand().double().eval(), 12)
    for layer in ("b", "c"):
        assert transposed(found.after, layer, "gradient") == transposed(found.before, layer, "gradient")
    assert found.difference <= 1e-12


class OtherLayers(nn.Module):
    """Transposed convolutions as layers, and convolutions in one and three dimensions, all with heavy weights."""

    def __init__(self):
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 8, 3, 2), nn.ConvTranspose2d(8, 48, 2)
        self.line, self.volume = nn.Conv1d(48, 24, 9), nn.Conv3d(24, 24, (1, 3, 3))
        self.fc = nn.Linear(72, 5)

    def forward(self, x):
        x = torch.relu(self.up(torch.relu(self.stem(x))))  # (N, 48, 4, 4)
        line = torch.relu(self.line(x.flatten(2)))
        volume = torch.relu(self.volume(x.unflatten(1, (24, 2))))
        return self.fc(torch.cat([line.flatten(2).mean(2), volume.flatten(2)[..., :2].flatten(1)], 1))


def test_other_dimensions_are_joined_and_transposed_layers_are_not():
    torch.manual_seed(0)
    found = around(stack_sibling_products, OtherLayers().double().eval(), 7)
    for layer in ("line", "volume"):
        counts = [len(transposed(explanation, layer, "relevance")) for explanation in (found.before, found.after)]
        assert counts == [2, 1]
    assert transposed(found.after, "up", "relevance") == transposed(found.before, "up", "relevance")
    assert found.difference <= 1e-12


def is_transposed(node, layer, stream):
    return node.target in TRANSPOSED_CONVOLUTIONS and node.meta["layer"] == layer and node.meta["stream"] == stream


def transposed(explanation, layer, stream):
    return [call(node) for node in explanation.graph.nodes if is_transposed(node, layer, stream)]
