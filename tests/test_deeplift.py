"""DeepLIFT: attributions that sum to the difference of logits, beside autograd's gradient and Captum."""

from __future__ import annotations

import copy
import functools
import warnings

import captum.attr
import networks
import pytest
import torch
import torch.nn.functional as F
from cases import DTYPE, HEIGHT, WIDTH, Classifier
from emission import weights
from rows import ROWS
from test_ops import Sum
from torch import nn
from torchvision.models import convnext, densenet, efficientnet, mobilenetv3, swin_transformer, vision_transformer

import agf_fx
from agf_fx.emit import interpret
from agf_fx.errors import UnsupportedOpError
from agf_fx.frontend.capture import capture
from agf_fx.ir.text import op_name
from agf_fx.methods import REGISTRY
from agf_fx.pipeline import analyse, canonise, lower, verify_step
from agf_fx.runtime.program import Program

GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.randn(3, 3, 32, 32, generator=GENERATOR).double()
BASELINE = torch.randn(3, 32, 32, generator=GENERATOR).double() / 2
TARGETS = torch.tensor([[0, 1], [2, 3], [4, 0]])


def explained(model, images=IMAGES, target=TARGETS, baseline=BASELINE, method="deeplift", **more):
    return agf_fx.compile(model, method=method, options={"baseline": baseline}, **more).explain(images, target)


def differences(model, target=TARGETS, baseline=BASELINE):
    """y_t(x) - y_t(x₀), (N, K)."""
    with torch.no_grad():
        return (model(IMAGES) - model(baseline.expand(1, *IMAGES.shape[1:]))).gather(1, target)


def difference(found, expected):
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


# --- every operation -------------------------------------------------------------------------------------------------

# What reads a mask, or another step, of the images.
STEPPED = {("amax", "fmax"), ("where.self", "by a comparison")}
STEPPED |= {("masked_fill.Scalar", label) for label in ("by a comparison", "threshold", "Hardshrink")}


def reads_steps(row):
    return (op_name(row.op), row.label) in STEPPED or row.label.endswith(", a step")


def rows_of(op):
    return [row for row in ROWS if row.op is op and not reads_steps(row)]


@functools.cache
def on_operation(op):
    """All uses of an operation in one network, images and a baseline, and its analysed graph."""
    torch.manual_seed(0)
    model = Sum(rows_of(op)).to(DTYPE).eval()
    images, baseline = (torch.randn(count, 3, HEIGHT, WIDTH, dtype=DTYPE) for count in (3, 1))
    return model, images, baseline, analyse(capture(model, images[:1]))


def multiplied(op, images, baseline, target):
    model, _, _, captured = on_operation(op)
    method = REGISTRY["deeplift"].make(REGISTRY["deeplift"].options(baseline))
    canonical = canonise(captured, method)
    found = interpret(canonical, method, images, target, weights(canonical, model))
    return canonical, method, found


@pytest.mark.parametrize("op", dict.fromkeys(row.op for row in ROWS if not reads_steps(row)), ids=op_name)
def test_differences_are_handed_on_whole_by_every_operation(op):
    model, images, baseline, _ = on_operation(op)
    target = torch.tensor([[0, 1], [2, 0], [1, 2]])
    canonical, method, found = multiplied(op, images, baseline, target)
    alone = interpret(canonical, method, baseline, target[:1], weights(canonical, model))
    assert alone.maps.abs().max() == 0
    expected = (found.logits - alone.logits).gather(1, target)
    tolerance = 1e-7 if op is torch.ops.aten.to.dtype else 1e-11  # some rows pass through single precision
    torch.testing.assert_close(found.maps.sum((2, 3)), expected, rtol=tolerance, atol=tolerance)
    program = Program(canonical, lower(canonical, method, verify_step))
    maps, _ = program.run(images, target, program.inputs(model))
    torch.testing.assert_close(maps, found.maps, rtol=1e-9, atol=1e-11 * float(found.maps.abs().max()))
    if op not in (torch.ops.aten.to.dtype, torch.ops.aten.remainder.Tensor, torch.ops.aten.fmod.Tensor):
        multipliers_near_the_baseline_are_the_gradient(op, model, images[:1])  # no steps, no single precision


def multipliers_near_the_baseline_are_the_gradient(op, model, image):
    target = torch.tensor([[0, 1]])
    canonical, _, found = multiplied(op, image, image + 1e-7 * torch.randn_like(image), target)
    plain = REGISTRY["gradient"].make(REGISTRY["gradient"].options())
    gradient = interpret(canonical, plain, image, target, weights(canonical, model)).gradient
    name = canonical.images.name
    assert difference(found.gradient[name], gradient[name]) < 1e-4


@pytest.mark.parametrize("row", [row for row in ROWS if reads_steps(row)][::4], ids=lambda row: row.label)
def test_what_reads_a_step_of_the_images_is_refused(row):
    torch.manual_seed(0)
    model = Classifier(row).to(DTYPE).eval()
    with pytest.raises(UnsupportedOpError, match=r"(?s)deeplift compares the images with a baseline.*choose another"):
        explained(model, torch.randn(1, 3, HEIGHT, WIDTH, dtype=DTYPE), 0, 0.0)


class Digamma(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(torch.digamma(self.conv(x).exp()).mean((2, 3)))


def test_what_has_no_multiplier_is_refused():
    with pytest.raises(UnsupportedOpError, match=r"deeplift has no multiplier for aten\.digamma"):
        explained(Digamma().double().eval(), unknown_ops="gradient")


# --- whole networks --------------------------------------------------------------------------------------------------


class Squeezed(nn.Module):
    """A gate by squeeze and excitation, and a Swish written out."""

    def __init__(self):
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.silu(self.conv(x))
        x = x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.fc((x * torch.sigmoid(x)).mean((2, 3)))


class TokensFirst(nn.Module):
    """Layers that see tokens and images counted together: (L N, C), tokens first."""

    def __init__(self):
        super().__init__()
        self.patches, self.fc = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 5)
        self.mlp, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x):
        x = self.patches(x).flatten(2).permute(2, 0, 1)
        x = x + F.gelu(self.mlp(x.reshape(-1, 8))).reshape(16, -1, 8)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.fc(x.mean(0))


def convnext_tiny():
    blocks = [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 1)]
    return convnext.ConvNeXt(blocks, layer_scale=0.5, num_classes=5)


def mobilenet():
    block = functools.partial(mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=1.0)
    blocks = [block(16, 3, 16, 16, True, "RE", 2), block(16, 5, 24, 24, True, "HS", 2)]
    return mobilenetv3.MobileNetV3(blocks, 32, num_classes=5)


NETWORKS = {
    "vgg": networks.small_vgg,
    "resnet": networks.basic_resnet,
    "functional and reused": networks.reuse,
    "densenet": lambda: densenet.DenseNet(4, (2, 2), 8, num_classes=5),
    "squeeze and excitation, Swish": Squeezed,
    "mobilenet": mobilenet,
    "efficientnet": lambda: efficientnet.EfficientNet(
        [efficientnet.MBConvConfig(2, 3, 2, 8, 12, 2)], 0.0, num_classes=5, last_channel=16
    ),
    "vision transformer": lambda: vision_transformer.VisionTransformer(32, 8, 2, 2, 12, 24, num_classes=5),
    "windows": lambda: swin_transformer.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=5),
    "tokens first": TokensFirst,
    "convnext": convnext_tiny,
}


@functools.cache
def network(name):
    torch.manual_seed(0)
    model = NETWORKS[name]().double().eval()
    for parameter in model.parameters():  # some start at 0
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_sum_to_the_difference_of_logits(name):
    model = network(name)
    found, expected = explained(model).maps, differences(model)
    assert float((found.sum((2, 3)) - expected).abs().max() / expected.abs().min()) < 1e-9
    alone = explained(model, IMAGES[1:2], TARGETS[1:2, 1:]).maps
    torch.testing.assert_close(alone[0, 0], found[1, 1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_single_precision_is_near(name):
    model = copy.deepcopy(network(name)).float()
    checked = agf_fx.compile(model, method="deeplift", options={"baseline": BASELINE}).explain(
        IMAGES.float(), TARGETS, check=True
    )
    assert checked.precision.max() < 1e-3


def test_what_stands_apart_by_nothing_is_the_same():
    """A mean over one entry changes nothing, and nothing of the map."""
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(6 * 14 * 14, 5)]
    model = nn.Sequential(*layers).double().eval()
    spaced = nn.Sequential(*layers[:2], nn.AvgPool2d(1), *layers[2:]).eval()
    assert difference(explained(spaced).maps, explained(model).maps) < 1e-12


def test_the_baseline_is_prepared_with_the_weights():
    compiled = agf_fx.compile(networks.small_vgg(), IMAGES, method="deeplift")
    now, before = (
        [node.meta["stream"] for node in graph.graph.nodes if node.op == "call_function"]
        for graph in (compiled.graph, compiled.graph.prepare)
    )
    assert "reference" in before
    assert "reference" not in now


# --- Captum ----------------------------------------------------------------------------------------------------------


def chain(activation, pool, between=None):
    between = between or (lambda: nn.AvgPool2d(1))
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), activation(), between(), pool),
        *(nn.Conv2d(6, 8, 3), activation(), nn.AdaptiveAvgPool2d(3), nn.Flatten()),
        *(nn.Linear(72, 12), activation(), nn.Linear(12, 5)),
    )


class Residual(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.first, self.second = first, second
        self.pool, self.fc = nn.AvgPool2d(4), nn.Linear(6 * 64, 5)

    def forward(self, x):
        x = self.first(self.conv1(x))
        return self.fc(self.pool(self.second(self.conv2(x) + x)).flatten(1))


class Plainly(nn.Module):
    """A ReLU that is no module of PyTorch's."""

    def forward(self, x):
        return torch.relu(x)


def of_captum(model, baseline=BASELINE[None]):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lift = captum.attr.DeepLift(copy.deepcopy(model))
        found = lift.attribute(IMAGES.clone(), baseline.expand_as(IMAGES).clone(), target=TARGETS[:, 1])
    return found.sum(1, keepdim=True).detach()


ALIKE = {
    "averages": lambda: chain(nn.ReLU, nn.AvgPool2d(2)),
    "maxima": lambda: chain(nn.ReLU, nn.MaxPool2d(2)),
    "tanh": lambda: chain(nn.Tanh, nn.MaxPool2d(2)),
    "sigmoid": lambda: chain(nn.Sigmoid, nn.MaxPool2d(2)),
    "elu": lambda: chain(nn.ELU, nn.MaxPool2d(2)),
    "leaky relu": lambda: chain(nn.LeakyReLU, nn.MaxPool2d(2)),
    "softplus": lambda: chain(nn.Softplus, nn.MaxPool2d(2)),
    "residual": lambda: Residual(nn.ReLU(), nn.ReLU()),
}


@pytest.mark.parametrize("name", ALIKE)
def test_maps_of_captum(name):
    torch.manual_seed(0)
    model = ALIKE[name]().double().eval()
    assert difference(explained(model, target=TARGETS[:, 1:]).maps, of_captum(model)) <= 1e-9


# Where Captum's maps do not sum to the difference of logits: how far off they are, of its largest.
UNLIKE = {
    # It reads the gradient at a ReLU's output before the hook of the module behind has replaced it.
    "a maximum right behind a ReLU": lambda: chain(nn.ReLU, nn.MaxPool2d(2), nn.Identity),
    # Its unpooling overwrites where windows overlap.
    "windows that overlap": lambda: chain(nn.ReLU, nn.MaxPool2d(3, 2)),
    # It takes the gradient of what it has no hook for.
    "functions that are no modules": lambda: Residual(Plainly(), Plainly()),
    "GELU": lambda: chain(nn.GELU, nn.AvgPool2d(2)),
    "SiLU": lambda: chain(nn.SiLU, nn.AvgPool2d(2)),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_captums_maps_do_not_sum_to_the_difference_everywhere(name):
    torch.manual_seed(0)
    model = UNLIKE[name]().double().eval()
    expected = differences(model, TARGETS[:, 1:])
    ours = explained(model, target=TARGETS[:, 1:]).maps
    assert difference(ours.sum((2, 3)), expected) < 1e-12
    assert difference(of_captum(model).sum((2, 3)), expected) > 1e-2


def test_captum_refuses_modules_that_are_used_twice():
    torch.manual_seed(0)
    relu = nn.ReLU()
    model = Residual(relu, relu).double().eval()
    with pytest.raises(RuntimeError, match="used more than once"):
        of_captum(model)
    assert difference(explained(model).maps.sum((2, 3)), differences(model)) < 1e-12


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg", "vision transformer", "tokens first", "mobilenet"])
@pytest.mark.parametrize("ending", ["pt", "pt2", "onnx"])
def test_files_hold_the_baseline(name, ending, tmp_path):
    model = copy.deepcopy(network(name)).float()
    compiled = agf_fx.compile(model, method="deeplift", options={"baseline": BASELINE})
    expected = compiled.explain(IMAGES.float(), TARGETS)
    compiled.export(tmp_path / f"explainer.{ending}")
    found = agf_fx.load(tmp_path / f"explainer.{ending}").explain(IMAGES.float(), TARGETS)
    assert difference(found.maps, expected.maps) < 1e-4
