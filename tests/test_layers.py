"""What an explanation says of layers: relevance, gradient and value at the outputs of modules."""

from __future__ import annotations

import functools

import pytest
import torch
from networks import basic_resnet, small_vgg
from torch import nn

import agf_fx
from agf_fx.emit import interpret
from agf_fx.errors import OptionsError
from agf_fx.ir.layers import output_of
from agf_fx.methods import REGISTRY
from agf_fx.pipeline import analyse, canonise

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
TARGETS = torch.tensor([[0, 1], [2, 3], [4, 0]])
LAYERS = ["layer1.0.conv1", "layer2.0", "layer4", "avgpool"]


@functools.cache
def model():
    resnet = basic_resnet()
    for module in resnet.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # so that hooks see what modules put out
    return resnet


@functools.cache
def explainer(method: str):
    return agf_fx.compile(model(), IMAGES, method=method)


def hooked(layers):
    """The outputs of modules, by hooks, and the logits."""
    found = {}
    hooks = [
        model()
        .get_submodule(layer)
        .register_forward_hook(lambda module, args, y, layer=layer: found.update({layer: y}))
        for layer in layers
    ]
    logits = model()(IMAGES)
    for hook in hooks:
        hook.remove()
    return found, logits


def test_values_and_gradients_are_those_of_autograd():
    result = explainer("gradient").explain(IMAGES, TARGETS, layers=LAYERS, quantities=["gradient", "value"])
    outputs, logits = hooked(LAYERS)
    for k in range(2):
        chosen = logits.gather(1, TARGETS[:, k : k + 1]).sum()
        gradients = torch.autograd.grad(chosen, [outputs[layer] for layer in LAYERS], retain_graph=True)
        for layer, gradient in zip(LAYERS, gradients, strict=True):
            known = result.quantities[layer]
            torch.testing.assert_close(known.value, outputs[layer].detach(), rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(known.gradient[:, k], gradient, rtol=1e-9, atol=1e-11)
            assert known.relevance is None
            assert torch.equal(result.layers[layer], known.gradient)


@pytest.mark.parametrize("method", ["agf", "lrp-epsilon", "clrp"])
def test_relevance_is_that_of_the_interpreter(method):
    result = explainer(method).explain(IMAGES, TARGETS, layers=LAYERS[1:])
    entry = REGISTRY[method].make(REGISTRY[method].options())
    canonical = canonise(analyse(agf_fx.capture(model(), IMAGES)), entry)
    weights = {name: value.detach() for name, value in _tensors(canonical).items()}
    streams = interpret(canonical, entry, IMAGES, TARGETS, weights)
    for layer, found in result.layers.items():
        expected = streams.relevance[output_of(canonical, layer).name].transpose(0, 1)
        assert found.shape[:2] == (3, 2)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))
    assert torch.equal(result.maps, explainer(method)(IMAGES, TARGETS)) or torch.allclose(
        result.maps, explainer(method)(IMAGES, TARGETS), rtol=1e-9, atol=1e-12
    )


def _tensors(canonical):
    found = {
        name: functools.reduce(getattr, path.split("."), model()) for name, path in canonical.signature.weights.items()
    }
    return found | dict(canonical.signature.constants)


def test_pieces_and_ranks_have_the_same_layers():
    few = agf_fx.CompileOptions(max_batch=2)
    pieces = agf_fx.compile(model(), compile_options=few).explain(
        IMAGES, top_k=2, layers=["layer4"], quantities=["relevance", "value"]
    )
    whole = explainer("agf").explain(IMAGES, top_k=2, layers=["layer4"], quantities=["relevance", "value"])
    assert torch.equal(pieces.target, whole.target)
    for quantity in ("relevance", "value"):
        found, expected = (getattr(result.quantities["layer4"], quantity) for result in (pieces, whole))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_channels_are_ranked_by_their_relevance():
    result = explainer("agf").explain(IMAGES, TARGETS, layers=["layer4"])
    ranked = result.channels("layer4")
    sums = result.layers["layer4"].sum((3, 4))
    assert torch.equal(ranked.channel, sums.sort(dim=2, descending=True, stable=True).indices)
    torch.testing.assert_close(ranked.relevance, sums.gather(2, ranked.channel))
    with pytest.raises(OptionsError, match="no layer 'layer3' in this result"):
        result.channels("layer3")
    values = explainer("agf").explain(IMAGES, TARGETS, layers=["layer4"], quantities=["value"])
    with pytest.raises(OptionsError, match="no relevance or gradient by channel"):
        values.channels("layer4")


class Block(nn.Module):
    """Calls its convolution twice."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.mix(self.mix(x).tanh()).tanh()


class CallsAgain(nn.Module):
    """Calls a block twice, once on what it made itself, and a module with two values."""

    def __init__(self):
        super().__init__()
        self.block, self.parts, self.fc = Block(), Parts(), nn.Linear(3, 4)

    def forward(self, x):
        first, second = self.parts(self.block(self.block(x)))
        return self.fc((first * second).mean((2, 3)))


class Parts(nn.Module):
    """Puts out two values."""

    def forward(self, x):
        return x.sigmoid(), x.sin()


def test_each_call_of_a_module_has_a_name():
    torch.manual_seed(0)
    network = CallsAgain().double().eval()
    images = IMAGES[:, :, :6, :6]
    outputs = {"block": [], "block.mix": []}
    for path, of in outputs.items():
        network.get_submodule(path).register_forward_hook(lambda module, args, y, of=of: of.append(y))
    logits = network(images)
    for path, of in outputs.items():
        network.get_submodule(path)._forward_hooks.clear()
        assert len(of) == (2 if path == "block" else 4)
    names = {f"{path}#{i}": y for path, of in outputs.items() for i, y in enumerate(of, 1)}
    result = agf_fx.compile(network, method="gradient").explain(
        images, 1, layers=[*names], quantities=["gradient", "value"]
    )
    gradients = torch.autograd.grad(logits[:, 1].sum(), [*names.values()])
    for (name, value), gradient in zip(names.items(), gradients, strict=True):
        torch.testing.assert_close(result.quantities[name].value, value.detach(), rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(result.quantities[name].gradient[:, 0], gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("block", "is called several times; name one call: 'block#1', 'block#2'"),
        ("block#3", "is no call with a value in the graph.*there are 'block#1', 'block#2'"),
        ("fc#2", "the one call that computes something of the images is 'fc'"),
        ("parts", "puts out several values, .*name the layer that reads the one that you mean"),
        ("blok", "did you mean 'block'"),
    ],
)
def test_what_has_no_single_value_is_refused_with_its_reason(layer, message):
    network = CallsAgain().double().eval()
    with pytest.raises(OptionsError, match=message):
        agf_fx.compile(network, method="gradient").explain(IMAGES[:, :, :6, :6], 1, layers=[layer])


class Passed(nn.Module):
    """Calls a module on a constant, for nothing and for a size, besides twice on features."""

    def __init__(self, first):
        super().__init__()
        self.conv, self.mix, self.fc, self.first = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 4, 1),
            nn.Linear(4, 5),
            first,
        )

    def forward(self, x):
        y = self.conv(x).tanh()
        if self.first == "constant":
            extra = self.mix(torch.ones(1, 4, 6, 6, dtype=x.dtype))
        elif self.first == "dead":
            self.mix(y * 3)
            extra = 0.5
        else:
            extra = float(self.mix(y * 2).shape[2])
        y = (self.mix(y).sin() + extra).tanh()
        return self.fc(self.mix(y).tanh().mean((2, 3)))


@pytest.mark.parametrize("first", ["constant", "dead", "size"])
def test_calls_are_counted_as_hooks_count_them(first):
    torch.manual_seed(0)
    network, images, outputs = Passed(first).double().eval(), IMAGES[:, :, :6, :6], []
    handle = network.mix.register_forward_hook(lambda module, args, y: outputs.append(y.detach()))
    network(images)
    handle.remove()
    explainer = agf_fx.compile(network, method="gradient")
    result = explainer.explain(images, 1, layers=["mix#2", "mix#3"], quantities=["value"])
    for number in (2, 3):
        torch.testing.assert_close(result.quantities[f"mix#{number}"].value, outputs[number - 1], rtol=1e-9, atol=1e-11)
    with pytest.raises(OptionsError, match="there are 'mix#2', 'mix#3'"):
        explainer.explain(images, 1, layers=["mix#1"])


class ChannelsLast(nn.Module):
    """Channels of the inner layer come last."""

    def __init__(self):
        super().__init__()
        self.conv, self.mix, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.mix(self.conv(x).permute(0, 2, 3, 1))).mean((1, 2)))


def test_channels_are_found_where_the_layer_has_them():
    torch.manual_seed(0)
    explained = agf_fx.compile(ChannelsLast().double().eval()).explain(IMAGES[..., :8, :8], 1, layers=["mix", "conv"])
    assert explained.layers["mix"].shape == (3, 1, 6, 6, 6)
    torch.testing.assert_close(explained.channels("mix").relevance.sum(2), explained.layers["mix"].flatten(2).sum(2))
    assert explained.channels("mix").channel.shape == (3, 1, 6)
    assert explained.channels("conv").channel.shape == (3, 1, 4)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("agf", {"layers": "layer4"}, "give a list of module paths"),
        ("agf", {"layers": ["layer5"]}, "no layer 'layer5'.*did you mean 'layer"),
        ("agf", {"layers": ["fc"]}, "no relevance at the output of layer 'fc'.*starts in front of the last layer"),
        ("agf", {"layers": ["layer4"], "quantities": ["heat"]}, "quantities is 'heat'; choose one of"),
        ("agf", {"layers": ["layer4"], "quantities": "value"}, "give a list with some of"),
        ("agf", {"quantities": ["value"]}, r"name them: layers=\[...\]"),
        ("gradient", {"layers": ["layer4"], "quantities": ["relevance"]}, "gradient has no relevance; it has gradient"),
        ("lrp-epsilon", {"layers": ["layer4"], "quantities": ["gradient"]}, "has no gradient"),
        ("lrp-epsilon", {"layers": ["layer1.0.conv1"]}, "'layer1.0.conv1' .* puts out no value.*a norm"),
        ("integrated-gradients", {"layers": ["layer4"]}, "looks at many points"),
    ],
)
def test_what_cannot_be_said_of_layers(method, options, message):
    with pytest.raises(OptionsError, match=f"(?s){message}"):
        explainer(method).explain(IMAGES, 1, **options)


def test_a_layer_that_is_called_twice_is_not_one_value():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4)

        def forward(self, x):
            return self.fc((self.conv(torch.relu(self.conv(x))) + self.conv(x)).mean((2, 3)))

    with pytest.raises(OptionsError, match="called several times"):
        agf_fx.compile(Twice().double().eval()).explain(IMAGES, 1, layers=["conv"])


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = (function,)

    def forward(self, x):
        return self.function[0](x)


AROUND = {
    "the smaller of x and 0": lambda x: -torch.relu(-x),
    "a negated ReLU": lambda x: -torch.relu(x),
    "the least of windows": lambda x: -nn.functional.max_pool2d(-x, 2),
    "a ReLU of the negated": lambda x: torch.relu(-x),
    "a negative factor": lambda x: x * -3,
    "a positive factor": lambda x: x * 2,
    "a constant for each channel": lambda x: x + torch.arange(4.0, dtype=x.dtype)[:, None, None],
}


@pytest.mark.parametrize("case", AROUND)
def test_a_layer_is_what_its_module_puts_out_or_refused(case):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), Function(AROUND[case]), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)).double().eval()
    explainer, images, refused = agf_fx.compile(model, method="gradient"), IMAGES[..., :12, :12], []
    for name in map(str, range(8)):
        kept = []
        handle = model[int(name)].register_forward_hook(lambda module, inputs, output, kept=kept: kept.append(output))
        y = model(images.clone().requires_grad_())
        handle.remove()
        (gradient,) = torch.autograd.grad(y[:, 1].sum(), kept[0])
        try:
            result = explainer.explain(images, 1, layers=[name], quantities=["gradient", "value"])
        except OptionsError as error:
            refused.append((name, str(error)))
            continue
        torch.testing.assert_close(result.quantities[name].value, kept[0].detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(result.quantities[name].gradient[:, 0], gradient, rtol=1e-9, atol=1e-12)
    assert all(name in ("0", "1") and "has become part of it" in message for name, message in refused)
    assert (len(refused) > 0) == (case not in ("a positive factor", "a negated ReLU"))


def test_another_model_of_the_architecture_has_its_own_layers():
    first, second = small_vgg(seed=0).eval(), small_vgg(seed=1).eval()
    images = IMAGES[..., :16, :16]
    bound = agf_fx.compile(first)
    before = bound.explain(images, 1, layers=["features.3"])
    bound.bind(second)
    after = bound.explain(images, 1, layers=["features.3"])
    expected = agf_fx.compile(second).explain(images, 1, layers=["features.3"])
    assert torch.equal(after.layers["features.3"], expected.layers["features.3"])
    assert not torch.equal(after.layers["features.3"], before.layers["features.3"])


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x.mean((2, 3))).sigmoid()[:, :, None, None] * x


class Shuffle(nn.Module):
    def forward(self, x):
        return x.view(-1, 2, 4, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


class Halved(nn.Module):
    def forward(self, x):
        return x.unflatten(2, (7, 2)).mean(3)


@pytest.mark.parametrize("block", [Gate, Shuffle, Halved])
@pytest.mark.parametrize("layer", ["2", None])
def test_channels_behind_gates_and_reshapes(block, layer):
    """Told by what is multiplied, or by what reads the map."""
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), block(), *head).double().eval()
    images = torch.randn(2, 3, 16, 12, dtype=torch.float64)
    value = model[:3](images).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model[3:](value)[:, 1].sum(), value)
    expected = (value * gradient.mean((2, 3), keepdim=True)).sum(1).relu().detach()
    options = {"layer": layer, "resize": False, "normalise": False}
    found = agf_fx.compile(model, method="gradcam", options=options).explain(images, 1).maps[:, 0]
    torch.testing.assert_close(found, expected)


class Turned(nn.Module):
    """A network that takes its images with the channels last, or without channels, and scales them first."""

    def __init__(self, net, order):
        super().__init__()
        self.net, self.order = net, order

    def forward(self, x):
        x = x * 0.5
        return self.net(x[:, None] if self.order is None else x.permute(self.order))


@pytest.mark.parametrize("method", ["lrp-epsilon", "gradient"])
@pytest.mark.parametrize("channels", [3, 1])
def test_maps_at_layers_are_summed_over_the_channels_of_the_images(channels, method):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    image = torch.randn(1, channels, 8, 8, dtype=torch.float64)
    turned = image[:, 0] if channels == 1 else image.permute(0, 2, 3, 1)
    expected, found = (
        agf_fx.compile(Turned(net, order).double().eval(), x, method=method)._at_layers(x, 1)
        for order, x in (((0, 1, 2, 3), image), (None if channels == 1 else (0, 3, 1, 2), turned))
    )
    assert found.maps["images"].shape == (8, 8)
    for name in ("images", "net_0_conv2d"):
        torch.testing.assert_close(torch.tensor(found.maps[name]), torch.tensor(expected.maps[name]))
    assert ("mul" in found.maps) == (channels == 3)  # without channels it is not known what is one
    if channels == 3:
        torch.testing.assert_close(torch.tensor(found.maps["mul"]), torch.tensor(expected.maps["mul"]))
