"""Extract and aggregate, and NormGrad: the published maps, and outer products formed by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import golden_names, load_golden, small_vgg
from torch import nn

import agf_fx
from agf_fx.errors import OptionsError

COMBINED = {
    "vgg_tiny": ("features.2", "features.7", "features.10"),
    "vgg_tiny_bn": ("features.3", "features.10", "features.14"),
    "resnet_tiny": ("layer1.1", "layer2.0", "layer3.0"),
}
NAMES = {"filter_norm": "positive-norm"}
SECOND = {
    "norm_grad": {},
    "norm_grad_selective": {"extract": "scaling", "aggregate": "positive-norm"},
    "norm_grad_proper": {"extract": "layer"},
}


def difference(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def maps(golden, *targets, **options):
    explainer = agf_fx.compile(golden.model, method="extract-aggregate", options=options)
    chosen = torch.stack([golden.tensors[f"targets/{target}"] for target in targets], 1)
    return explainer.explain(golden.tensors["input"], chosen).maps


def grouped(found):
    """The keys of reference maps by everything but their last part, the target."""
    keys = {}
    for key in found:
        keys.setdefault(key.rpartition("/")[0], []).append(key.rpartition("/")[2])
    return keys


def agree(golden, group, key, targets, **options):
    together = maps(golden, *targets, **options)
    for k, target in enumerate(targets):
        assert difference(together[:, k : k + 1], golden.tensors[f"{group}{key}/{target}"]) <= 1e-12, (key, target)


FEW = ("conv1x1/norm", "conv3x3/filter_norm")


@pytest.mark.parametrize("name", golden_names())
def test_the_grid_of_the_published_code(name):
    """At the last layer of a network every combination, and two of them elsewhere."""
    golden = load_golden(name)
    single, last = grouped(golden.group("normgrad_raw/")), COMBINED[name.split(".")[0]][-1]
    assert len(single) >= 40
    for key, targets in single.items():
        layer, extract, aggregate = key.split("/")
        if f"{extract}/{aggregate}" in FEW or (layer == last and ".in16" in name):
            ways = {"extract": extract.replace("_", "-"), "aggregate": NAMES.get(aggregate, aggregate)}
            agree(golden, "normgrad_raw/", key, targets, layers=layer, resize=False, normalise=False, **ways)
    for key, targets in grouped(golden.group("normgrad/")).items():
        layer, extract, aggregate = key.split("/")
        if f"{extract}/{aggregate}" in FEW:
            layers = COMBINED[name.split(".")[0]] if layer == "combi" else layer
            ways = {"extract": extract, "aggregate": NAMES.get(aggregate, aggregate)}
            agree(golden, "normgrad/", key, targets, layers=layers, combine="product", **ways)


@pytest.mark.parametrize("name", [name for name in golden_names() if "in37x41" not in name])
def test_the_second_variant_of_the_published_code(name):
    golden = load_golden(name)
    for key, targets in grouped(golden.group("normgrad_tr/")).items():
        kind, layer = key.split("/")
        if kind in SECOND:
            agree(golden, "normgrad_tr/", key, targets, layers=layer, resize=False, normalise=False, **SECOND[kind])


CONVOLUTIONS = {
    "stride": nn.Conv2d(4, 8, 3, stride=2, padding=1),
    "dilation": nn.Conv2d(4, 8, 3, padding=2, dilation=2),
    "groups": nn.Conv2d(4, 8, 3, padding=1, groups=2),
    "depthwise": nn.Conv2d(4, 8, (3, 2), groups=4, stride=(2, 1), padding=(0, 2)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_outer_products_are_those_of_the_layers_own_weights(kind):
    torch.manual_seed(0)
    conv = CONVOLUTIONS[kind]
    tail = (nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), conv, *tail).double().eval()
    images = torch.randn(2, 3, 12, 11, dtype=torch.float64)
    read = model[:2](images).detach()
    output = conv(read).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model[3:](output)[:, 1].sum(), output)
    window = F.unfold(read, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    window = window.reshape(2, conv.groups, -1, window.shape[-1])
    products = torch.einsum("ngiu,ngju->ngiju", window, gradient.reshape(2, conv.groups, -1, window.shape[-1]))
    entries = products.flatten(1, 3).reshape(2, -1, *output.shape[2:])
    wanted = {
        "sum": entries.sum(1),
        "norm": entries.norm(dim=1),
        "positive-norm": entries.clamp(min=0).norm(dim=1),
        "max": entries.amax(1),
    }
    for aggregate, expected in wanted.items():
        options = {"extract": "layer", "aggregate": aggregate, "layers": "2", "resize": False, "normalise": False}
        explainer = agf_fx.compile(model, method="extract-aggregate", options=options)
        torch.testing.assert_close(explainer.explain(images, 1).maps[:, 0], expected, rtol=1e-12, atol=1e-14)
    weights = torch.autograd.grad(model(images)[:, 1].sum(), conv.weight)[0]
    torch.testing.assert_close(products.sum((0, -1)).transpose(1, 2).reshape(weights.shape), weights)


@pytest.mark.parametrize("widths", [(0, 1, 0, 1), (2, 0, 1, 3), (0, 0, 0, 2)])
def test_padding_on_one_side_is_no_part_of_the_kernel(widths):
    torch.manual_seed(0)

    class Padded(nn.Module):
        def __init__(self, pad):
            super().__init__()
            self.first, self.pad = nn.Conv2d(3, 4, 3, padding=1), pad
            self.conv, self.fc = nn.Conv2d(4, 6, 3, stride=2), nn.Linear(6, 5)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.fc(torch.relu(self.conv(self.pad(x))).mean((2, 3)))

    model = Padded(lambda x: F.pad(x, widths)).double().eval()
    images = torch.randn(2, 3, 12, 11, dtype=torch.float64)
    read = F.pad(torch.relu(model.first(images)), widths).detach()
    output = model.conv(read).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.fc(torch.relu(output).mean((2, 3)))[:, 1].sum(), output)
    products = torch.einsum("niu,nju->niju", F.unfold(read, 3, stride=2), gradient.flatten(2)).flatten(1, 2)
    wanted = {"sum": products.sum(1), "norm": products.norm(dim=1), "max": products.amax(1)}
    wanted["positive-norm"] = products.clamp(min=0).norm(dim=1)
    for aggregate, expected in wanted.items():
        options = {"extract": "layer", "aggregate": aggregate, "layers": "conv", "resize": False, "normalise": False}
        found = agf_fx.compile(model, method="extract-aggregate", options=options).explain(images, 1).maps[:, 0]
        torch.testing.assert_close(found.flatten(1), expected, rtol=1e-12, atol=1e-14)


def test_convolutions_are_found_where_none_is_named():
    found = agf_fx.compile(small_vgg(classes=5), method="extract-aggregate", options={"extract": "layer"})
    named = {"extract": "layer", "layers": tuple(last_convolutions())}
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = agf_fx.compile(small_vgg(classes=5), method="extract-aggregate", options=named).explain(images, 1).maps
    torch.testing.assert_close(found.explain(images, 1).maps, expected)


def last_convolutions():
    """The last convolution in front of each pooling."""
    names = {}
    size = 0
    for name, module in small_vgg(classes=5).named_modules():
        size += isinstance(module, nn.MaxPool2d)
        if isinstance(module, nn.Conv2d):
            names[size] = name
    return names.values()


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("extract", ["conv3x3", "conv3x3-depthwise", "layer"])
@pytest.mark.parametrize("aggregate", ["norm", "max"])
def test_images_of_other_dimensions(dims, extract, aggregate):
    """A dimension of size 1 changes nothing but the neighbours, all of which are zeros of the padding there."""
    torch.manual_seed(0)
    kind = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    pool = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[dims]
    conv = kind(4, 6, 3, padding=1)
    model = nn.Sequential(kind(3, 4, 1), nn.Tanh(), conv, nn.Tanh(), pool(1), nn.Flatten(), nn.Linear(6, 4)).double()
    images = torch.randn(2, 3, *([5] * dims), dtype=torch.float64)
    options = {"extract": extract, "aggregate": aggregate, "layers": "2", "normalise": False, "resize": False}
    found = agf_fx.compile(model.eval(), method="extract-aggregate", options=options).explain(images, 1).maps[:, 0]
    output = conv(model[:2](images)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model[3:](output)[:, 1].sum(), output)
    source = model[:2](images).detach() if extract == "layer" else output.detach()
    padded = F.pad(source, [1, 1] * dims)
    for dim in range(dims):
        padded = padded.unfold(2 + dim, 3, 1)
    around = padded.flatten(2 + dims)
    if extract == "conv3x3-depthwise":
        entries = (around * gradient.unsqueeze(-1)).movedim(1, -1).flatten(1 + dims)
    else:
        entries = torch.einsum("nc...k,nd...->n...ckd", around, gradient).flatten(1 + dims)
    expected = entries.norm(dim=-1) if aggregate == "norm" else entries.amax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_combinations_are_geometric_means():
    golden = load_golden("vgg_tiny.in32")
    layers = COMBINED["vgg_tiny"]
    alone = [maps(golden, "top1", layers=(layer,)) for layer in layers]
    found = {combine: maps(golden, "top1", layers=layers, combine=combine) for combine in ("uniform", "linear")}
    torch.testing.assert_close(found["uniform"], (alone[0] * alone[1] * alone[2]) ** (1 / 3))
    torch.testing.assert_close(found["linear"], alone[0] ** (1 / 6) * alone[1] ** (2 / 6) * alone[2] ** (3 / 6))
    given = maps(golden, "top1", layers=layers, weights=(0, 0.5, 1))
    torch.testing.assert_close(given, alone[1] ** 0.5 * alone[2])
    torch.testing.assert_close(maps(golden, "top1", layers=layers[::-1], combine="linear"), found["linear"])
    torch.testing.assert_close(maps(golden, "top1", layers=layers[:1], weights=(2.0,)), alone[0] ** 2)


def test_layers_are_found_from_the_graph():
    golden = load_golden("resnet_tiny.in64")
    images, target = golden.tensors["input"], golden.tensors["targets/top1"]
    by_itself = agf_fx.compile(golden.model, method="normgrad")(images, target)
    stages = {"layers": ("relu", "layer1", "layer2", "layer3", "layer4")}
    torch.testing.assert_close(
        agf_fx.compile(golden.model, method="normgrad", options=stages)(images, target), by_itself
    )
    last = ("conv1", *(f"layer{stage}.0.conv1" for stage in (2, 3, 4)), "layer4.0.downsample.0")
    convolutions = {"extract": "layer", "layers": last}
    found, expected = (
        agf_fx.compile(golden.model, method="extract-aggregate", options=options)(images, target)
        for options in ({"extract": "layer"}, convolutions)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ()}, r"give paths of modules"),
        ({"layers": 3}, r"give paths of modules"),
        ({"combine": "mean"}, r"combine.*uniform"),
        ({"layers": ("a", "b"), "weights": (1,)}, r"weights has 1 numbers, and there are 2 layers"),
        ({"weights": (1,)}, r"no layers are named"),
        ({"layers": ("a",), "weights": (-1,)}, r"a number of 0 or more for each layer"),
        ({"extract": "conv5x5"}, r"extract.*conv3x3-depthwise"),
        ({"aggregate": "mean"}, r"aggregate.*positive-norm"),
        ({"normalise": 1}, r"normalise is 1"),
    ],
)
def test_options_without_meaning(options, message):
    with pytest.raises(OptionsError, match=message):
        agf_fx.compile(nn.Identity(), method="extract-aggregate", options=options)


def test_a_layer_that_is_no_convolution_has_no_weights_to_look_at():
    golden = load_golden("vgg_tiny.in16")
    with pytest.raises(OptionsError, match=r"layer 'features.1' of TinyVGG is none; name one"):
        maps(golden, "top1", extract="layer", layers="features.1")


class ChannelsBehind(nn.Module):
    """A feature map (N, H, W, C)."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x).permute(0, 2, 3, 1))).mean((1, 2)))


@pytest.mark.parametrize("extract", ["scaling", "conv1x1", "conv3x3", "conv3x3-depthwise"])
@pytest.mark.parametrize("aggregate", ["norm", "max"])
def test_channels_behind_the_positions(extract, aggregate, tmp_path):
    torch.manual_seed(0)
    behind = ChannelsBehind().eval()

    class InFront(ChannelsBehind):
        def forward(self, x):
            y = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.fc(torch.relu(y).mean((2, 3)))

    front, images = InFront().eval(), torch.randn(2, 3, 9, 8)
    front.load_state_dict(behind.state_dict())
    ways = {"extract": extract, "aggregate": aggregate}
    found = agf_fx.compile(behind, method="extract-aggregate", options={**ways, "layers": "norm"})
    expected = agf_fx.compile(front, method="extract-aggregate", options={**ways, "layers": "norm"})(
        images, [[0, 1]] * 2
    )
    torch.testing.assert_close(found(images, [[0, 1]] * 2), expected)
    found.export(tmp_path / "explainer.onnx")
    torch.testing.assert_close(agf_fx.load(tmp_path / "explainer.onnx")(images, [[0, 1]] * 2), expected)
