import json

import pytest
import torch
import torchvision
from networks import load_golden, small_vgg
from torch import nn

import agf_fx
from agf_fx.ir.facts import facts
from agf_fx.ir.vocabulary import Family, family_of
from agf_fx.methods import REGISTRY
from agf_fx.passes.heads import mark_heads
from agf_fx.passes.residual_convolutions import mark_residual_convolutions
from agf_fx.passes.residual_merges import mark_residual_merges


def flat(model, shape=(3, 32, 32)):
    canonical = agf_fx.capture(model, torch.zeros(1, *shape, dtype=next(model.parameters()).dtype))
    canonical = mark_residual_convolutions(mark_residual_merges(mark_heads(canonical)))
    flat_in_the_published_code = (
        REGISTRY["agf"].make(agf_fx.AGFOptions(flat_convolutions="reference")).stream("relevance")
    )
    return {
        node.meta["module"]
        for node in canonical.calls
        if family_of(node) is Family.CONVOLUTION and flat_in_the_published_code.rules.rule_for(node).name == "flat"
    }


def marked(model, fact):
    canonical = mark_residual_convolutions(mark_residual_merges(agf_fx.capture(model, torch.zeros(1, 3, 32, 32))))
    return {node.meta["module"] for node in canonical.calls if getattr(facts(node), fact)}


def test_facts_say_where_a_convolution_stands():
    model = torchvision.models.resnet50().eval()
    blocks = [f"layer{s + 1}.{b}" for s, count in enumerate((3, 4, 6, 3)) for b in range(count)]
    down = {f"layer{s}.0.downsample.0" for s in range(1, 5)}
    assert marked(model, "in_region") == {f"{block}.conv{i}" for block in blocks for i in (1, 2, 3)} | down
    assert marked(model, "feeds_merge") == {f"{block}.conv3" for block in blocks} | down
    assert marked(model, "pointwise") == {f"{block}.conv{i}" for block in blocks for i in (1, 3)} | down


def test_bottlenecks_keep_the_middle_convolution():
    golden = load_golden("resnet_tiny.in64")
    with_residual = {key.split("/")[2] for key in golden.tensors if key.startswith("detail/top1/")}
    every = {name for name, module in golden.model.named_modules() if isinstance(module, nn.Conv2d)}
    assert flat(golden.model) == every - with_residual - {"conv1"}
    assert json.loads(golden.metadata["structure"])["block"] == "Bottleneck"


def test_basic_blocks_keep_the_first_convolution():
    model = torchvision.models.resnet18().eval()
    expected = {f"layer{s}.{b}.conv2" for s in range(1, 5) for b in range(2)}
    expected |= {f"layer{s}.0.downsample.0" for s in range(2, 5)}
    assert flat(model) == expected


class Mixed(nn.Module):
    """In one region: a convolution that reaches the sum through batch norm, and one through a ReLU."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a, self.b = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.bn = nn.BatchNorm2d(4)
        self.point = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4 * 1024, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = self.bn(self.a(x)) + torch.relu(self.b(x))
        return self.fc(self.point(x).flatten(1))


def test_the_policy_is_stated_on_the_graph():
    assert flat(Mixed().eval()) == {"a"}


@pytest.mark.parametrize("bn", [False, True])
def test_nothing_is_flat_outside_residual_regions(bn):
    assert flat(small_vgg(bn=bn), (3, 16, 16)) == set()


# --- padding on one side ---------------------------------------------------------------------------------------------


def padded(kernel, widths, norm=False):
    """A convolution behind zeros that differ between the sides, and a linear layer."""

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, kernel, stride=2), nn.BatchNorm2d(4), nn.Linear(4, 5)

        def forward(self, x):
            x = self.conv(nn.functional.pad(x, widths))
            return self.fc(torch.relu(self.norm(x) if norm else x).mean((2, 3)))

    torch.manual_seed(0)
    return Padded().double().eval()


@pytest.mark.parametrize(
    ("kernel", "widths", "expected"),
    [
        (3, (0, 1, 0, 1), ((1, 0), (1, 0))),
        (3, (2, 0, 1, 3), ((2, 0), (0, 2))),
        (1, (0, 0, 0, 1), ((1, 0), (0, 0))),
        (3, (1, 1, 1, 1), ()),
    ],
)
def test_zeros_around_a_kernel_are_known(kernel, widths, expected):
    canonical = agf_fx.capture(padded(kernel, widths), torch.zeros(1, 3, 12, 11, dtype=torch.float64))
    canonical = mark_residual_convolutions(mark_residual_merges(canonical))
    (convolution,) = (node for node in canonical.calls if family_of(node) is Family.CONVOLUTION)
    assert sorted(facts(convolution).kernel_padding) == sorted(expected)
    assert facts(convolution).pointwise == (kernel == 1)


@pytest.mark.parametrize("norm", [False, True])
def test_zeros_around_a_kernel_are_no_inputs(norm):
    """LRP-flat counts what a kernel reads: not its zeros, and not those of the padding."""
    model, images = padded(3, (0, 1, 0, 1), norm), torch.randn(2, 3, 12, 11, dtype=torch.float64)
    explainer = agf_fx.compile(model, method="lrp-flat")
    result = explainer.explain(images, 1, layers=["norm" if norm else "conv"])
    (relevance,) = result.layers.values()
    ones = torch.ones_like(model.conv.weight)
    count = nn.functional.conv2d(nn.functional.pad(torch.ones_like(images), (0, 1, 0, 1)), ones, stride=2)
    share = relevance[:, 0] / (count + 1e-6)
    back = nn.functional.conv_transpose2d(share, ones, stride=2)
    expected = nn.functional.pad(back, (0, 1, 0, 1))[:, :, :12, :11].sum(1)
    torch.testing.assert_close(result.maps[:, 0], expected, rtol=1e-10, atol=1e-12)


def test_a_flat_kernel_with_zeros_around_it_keeps_its_rule():
    canonical = agf_fx.capture(padded(1, (0, 0, 0, 1)), torch.zeros(1, 3, 12, 11, dtype=torch.float64))
    canonical = mark_residual_convolutions(mark_residual_merges(canonical))
    (convolution,) = (node for node in canonical.calls if family_of(node) is Family.CONVOLUTION)
    assert (
        REGISTRY["rap"].make(REGISTRY["rap"].options()).stream("relevance").rules.rule_for(convolution).name
        == "pointwise"
    )
