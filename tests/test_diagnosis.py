"""What a diagnosis finds: networks built to have one fault each, and their healthy twins."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torchvision
from networks import options_of
from torch import Tensor, nn
from typer.testing import CliRunner

import agf_fx
from agf_fx.cli import app
from agf_fx.data.sample_scenes import sample_scenes
from agf_fx.errors import InputError, NonFiniteInputError, OptionsError, TargetError
from agf_fx.inspect.diagnosis import CHECKS, KINDS, Case, measures
from agf_fx.inspect.diagnosis.values import precision
from agf_fx.ir.vocabulary import Family
from agf_fx.methods import REGISTRY
from agf_fx.methods.lrp import epsilon_table, relevance_method
from agf_fx.methods.table import RuleTable, family
from agf_fx.rules import lrp
from agf_fx.runtime.degenerate import DegenerateMapWarning

SIZE = 16


def image(size: int = SIZE) -> Tensor:
    """A smooth picture in all colours, (1, 3, size, size)."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    waves = [torch.sin(rows / 3 + shift) + torch.cos(columns / 4 - shift) for shift in (0.0, 1.0, 2.0)]
    return torch.stack(waves)[None] / 4 + 0.5


def network(**layers: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(layers)).eval()


def pooled(features: int = 6, classes: int = 5) -> dict[str, nn.Module]:
    """Average, flatten, linear."""
    return {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(features, classes)}


def filters(weight: Tensor) -> nn.Module:
    """A first layer that changes nothing, and then one filter over the whole image for each class, (classes, H, W)."""
    colour, whole = nn.Conv2d(3, 1, 1, bias=False), nn.Conv2d(1, len(weight), weight.shape[1:], bias=False)
    with torch.no_grad():
        colour.weight.fill_(1 / 3)
        whole.weight.copy_(weight[:, None])
    return network(colour=colour, whole=whole, flat=nn.Flatten())


def blobs(classes: int = 3, size: int = SIZE) -> Tensor:
    """Smooth filters, each with a middle of its own."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centres = [(5.0, 5.0), (10.0, 6.0), (7.0, 11.0)][:classes]
    return torch.stack([torch.exp(-((rows - r) ** 2 + (columns - c) ** 2) / 20) for r, c in centres])


def relued(bias: float) -> nn.Module:
    conv = nn.Conv2d(3, 6, 3)
    nn.init.constant_(conv.bias, bias)
    return network(conv=conv, act=nn.ReLU(), **pooled())


class Gated(nn.Module):
    """Features times a mask of the pixels that are brighter than a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.body = network(conv=nn.Conv2d(3, 6, 3), act=nn.ReLU())
        self.head = network(**pooled())
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return self.head(features * (features.mean((1, 2, 3), keepdim=True) > self.threshold))


class Averaged(nn.Module):
    """The mean of the probabilities of two heads, whose logits are scaled."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.body = network(conv=nn.Conv2d(3, 6, 3), act=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
        self.first, self.second = nn.Linear(6, 5), nn.Linear(6, 5)
        self.soft, self.scale = nn.ModuleList([nn.Softmax(1), nn.Softmax(1)]), scale

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return (self.soft[0](self.scale * self.first(features)) + self.soft[1](self.scale * self.second(features))) / 2


def far_apart(scale: float) -> nn.Module:
    model = relued(0.5)
    model.fc.weight.data.mul_(scale)
    return model


def bounded(low: float) -> nn.Module:
    return network(conv=nn.Conv2d(3, 6, 3), bound=nn.Hardtanh(low, low + 10), **pooled())


def speaking(sign: float) -> nn.Module:
    """Class 0 is spoken for, or against, by every feature."""
    model = relued(0.5)
    nn.init.constant_(model.fc.weight[0], sign)
    return model


def equal_rows(equal: bool) -> nn.Module:
    model = relued(0.5)
    if equal:
        model.fc.weight.data[:] = model.fc.weight[:1].clone()
    return model


def squeezed(width: int) -> nn.Module:
    """All classes read a few numbers."""
    layers = {"pool": nn.AdaptiveAvgPool2d(2), "flat": nn.Flatten(), "squeeze": nn.Linear(24, width)}
    model = network(conv=nn.Conv2d(3, 6, 3), act=nn.ReLU(), **layers, fc=nn.Linear(width, 5))
    nn.init.uniform_(model.fc.weight, 0.1, 1) if width == 1 else None
    return model


def strided(lattice: bool) -> nn.Module:
    """A layer that reads every second pixel in either direction, or the mean of four."""
    down = nn.Conv2d(6, 6, 1, stride=2) if lattice else nn.AvgPool2d(2)
    body = {"conv": nn.Conv2d(3, 6, 1), "down": down, "act": nn.ReLU(), "last": nn.Conv2d(6, 6, 3)}
    return network(**body, act2=nn.ReLU(), **pooled())


def shifted(by: float) -> nn.Module:
    """Features with a number added that is taken off again, in front of a ReLU."""
    up, down = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1)
    with torch.no_grad():
        up.bias.fill_(by)
        down.weight.copy_(torch.eye(6)[:, :, None, None])
        down.bias.fill_(-by)
    whole = nn.Conv2d(6, 3, SIZE - 2, bias=False)
    whole.weight.data.copy_(blobs(size=SIZE - 2)[:, None])
    return network(up=up, down=down, act=nn.ReLU(), whole=whole, flat=nn.Flatten())


def one_weight(size: float) -> nn.Module:
    weight = blobs()
    weight[0, 7, 7] += size
    return filters(weight)


def framed(size: float) -> nn.Module:
    weight = blobs()
    weight[0, 0], weight[0, -1] = size, size
    return filters(weight)


def cancelling(rest: float) -> nn.Module:
    """The left half of the picture minus the right one, weighted such that a share of the left one is left."""
    left = torch.zeros(SIZE, SIZE)
    left[:, : SIZE // 2] = 1
    grey = image()[0].mean(0)
    balance = (grey * left).sum() / (grey * (1 - left)).sum()
    weight = blobs()
    weight[0] = left - (1 - rest) * balance * (1 - left)
    return filters(weight)


def scaled(factor: float) -> nn.Module:
    """Features of a size that a stabiliser swallows, or not."""
    model = relued(0.0)
    with torch.no_grad():
        model.conv.weight.mul_(factor).abs_()
        model.fc.weight.div_(factor)
    return model


def overflowing(factor: float) -> nn.Module:
    body = {"conv": nn.Conv2d(3, 6, 3), "big": nn.Conv2d(6, 6, 1), "bigger": nn.Conv2d(6, 6, 1)}
    model = network(**body, act=nn.ReLU(), **pooled())
    with torch.no_grad():
        model.big.weight.mul_(factor)
        model.bigger.weight.mul_(factor)
    return model


@dataclass(frozen=True)
class Row:
    kind: str
    make: Callable[..., nn.Module]
    ill: object
    healthy: object
    layer: str
    method: str = "gradient"
    options: dict[str, object] | None = None
    target: int = 0
    size: int = SIZE


def noise_filters(rough: bool) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return filters(torch.randn(3, SIZE, SIZE, generator=generator) if rough else blobs())


ROWS = {
    "dead ReLU": Row("blank", relued, -100.0, 0.5, "act"),
    "dead ReLU, agf": Row("blank", relued, -100.0, 0.5, "act", "agf"),
    "closed gate": Row("blank", Gated, 100.0, -100.0, "", "agf"),
    "saturated clamp": Row("blank", bounded, 50.0, -5.0, "bound"),
    "saturated softmax": Row("blank", Averaged, 1e4, 1.0, "soft.1"),
    "logits far apart": Row("blank", far_apart, 1e6, 1.0, "fc", "agf"),
    "only against the class": Row("blank", speaking, -1.0, 1.0, "", "gradcam", {"layer": "act"}),
    "random filters": Row("noisy", noise_filters, True, False, "whole"),
    "equal classes": Row("class-independent", equal_rows, True, False, "fc", "agf"),
    "one number": Row("class-independent", squeezed, 1, 8, "squeeze"),
    "lattice": Row("grid", strided, True, False, "down", "agf", size=32),
    "digits lost": Row("precision", shifted, 1e5, 1.0, "act"),
    "one weight": Row("one-pixel", one_weight, 100.0, 0.0, "whole"),
    "frame": Row("border", framed, 5.0, 0.0, "whole"),
    "against": Row("negative", lambda sign: filters(sign * blobs()), -1.0, 1.0, "", "gradient-x-input"),
    "cancelling": Row("exploding", cancelling, 1e-6, 1.0, "whole", "lrp-0"),
    "tiny": Row("not-conserved", scaled, 1e-10, 1.0, "pool", "agf"),
    "overflow": Row("not-finite", overflowing, 1e25, 1.0, "bigger"),
}


def diagnosed(row: Row, value: object) -> agf_fx.Diagnosis:
    torch.manual_seed(0)
    explainer = agf_fx.compile(row.make(value).eval(), method=row.method, options=row.options)
    return explainer.diagnose(image(row.size), row.target)


@pytest.mark.filterwarnings("ignore:.*probabilities")
@pytest.mark.parametrize("name", ROWS)
def test_a_fault_is_found_where_it_begins(name):
    row = ROWS[name]
    findings = {finding.kind: finding for finding in diagnosed(row, row.ill).findings}
    assert row.kind in findings, findings
    found = findings[row.kind]
    assert found.layer == row.layer, found
    assert all([found.message, found.advice, found.measured])
    assert all(isinstance(value, float) for value in found.measured.values())


@pytest.mark.filterwarnings("ignore:.*probabilities")
@pytest.mark.parametrize("name", ROWS)
def test_a_healthy_twin_has_no_finding(name):
    row = ROWS[name]
    assert not diagnosed(row, row.healthy).findings


@functools.cache
def of_scene(network: str, method: str) -> agf_fx.Diagnosis:
    """A bundled network on a bundled scene."""
    scene, model = sample_scenes()[0].image()[None], agf_fx.load_model(network).model
    return agf_fx.compile(model, method=method).diagnose(scene)


def test_a_bundled_network_is_healthy():
    diagnosis = of_scene("digits-vgg", "agf")
    assert not diagnosis.findings
    title, line, left_out = str(diagnosis).splitlines()[:3]
    assert title == "DigitsVGG by agf"
    assert ": nothing found. Measured: not-finite: entries that are not finite 0; blank: " in line
    assert left_out.startswith("  not checked, exploding: ")


def test_an_untrained_resnet_is_healthy():
    assert not agf_fx.compile(torchvision.models.resnet18().eval()).diagnose(torch.rand(1, 3, 64, 64)).findings


def test_of_an_image_that_is_noise_nothing_is_said_of_noise():
    torch.manual_seed(0)
    explainer = agf_fx.compile(noise_filters(True), method="gradient")
    (each,) = explainer.diagnose(torch.rand(1, 3, SIZE, SIZE), 0)
    assert not each.findings
    (check,) = (check for check in each.checks if check.kind == "noisy")
    assert check.measured["roughness"] > 0.9
    assert "noise itself" in check.left_out


def test_smoothgrad_is_what_helps_against_the_noise_of_a_trained_gradient():
    (finding,) = of_scene("digits-resnet", "gradient").findings
    assert finding.kind == "noisy"
    assert "smoothgrad" in finding.advice
    (check,) = (check for check in of_scene("digits-resnet", "smoothgrad").maps[0].checks if check.kind == "noisy")
    assert check.finding is None
    assert check.measured["roughness"] < 0.7 * finding.measured["roughness"]


@functools.cache
def small() -> nn.Module:
    torch.manual_seed(0)
    body = {"conv": nn.Conv2d(3, 6, 3, padding=1), "act": nn.ReLU(), "max": nn.MaxPool2d(2)}
    return network(**body, conv2=nn.Conv2d(6, 6, 3), norm=nn.BatchNorm2d(6), act2=nn.ReLU(), **pooled())


SAMPLE = (
    *("agf", "sglrp", "eigencam", "normgrad", "integrated-gradients", "pattern-net"),
    *("deep-shap", "occlusion", "meta"),
)  # one of each kind of method


@pytest.mark.parametrize("method", SAMPLE)
def test_every_method_is_asked_everything(method):
    options = options_of(method, small(), SIZE)
    explainer = agf_fx.compile(small(), method=method, options=options)
    (each,) = explainer.diagnose(image(), 1)
    assert tuple(check.kind for check in each.checks) == KINDS
    for check in each.checks:
        assert check.done or check.left_out
    for finding in each:
        assert finding.kind in KINDS
        assert finding.severity in ("problem", "note")
        assert not finding.node or finding.node in {node.name for node in explainer.graph.canonical.graph.nodes}


@pytest.mark.parametrize("method", ["integrated-gradients", "occlusion", "meta"])
def test_what_has_no_walk_says_so(method):
    dead = relued(-100.0)
    (each,) = agf_fx.compile(dead, method=method).diagnose(image(), 1)
    blank = next(finding for finding in each if finding.kind == "blank")
    assert (blank.layer, blank.node) == ("", "")
    (check,) = (check for check in each.checks if check.kind == "blank")
    assert check.left_out.startswith("where it begins: ")
    assert check.left_out in " ".join(str(each).split())


class Shortcut(nn.Module):
    """x + conv(x), with a kernel that is a point or smooths."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, kernel, padding=kernel // 2)
        nn.init.constant_(self.conv.weight, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


@pytest.mark.parametrize("smooth", [False, True])
def test_shortcuts_do_not_hide_where_a_grid_begins(smooth):
    down = [nn.Conv2d(6, 6, 1, stride=2), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU()]
    first = nn.Conv2d(3, 6, 5 if smooth else 1, padding=2 if smooth else 0)
    nn.init.constant_(first.weight, 0.1)
    body = nn.Sequential(first, Shortcut(1), nn.ReLU(), *down)
    model = network(body=body, **pooled())
    found = agf_fx.compile(model, method="gradient").diagnose(image(32), 0).findings
    layers = [finding.layer for finding in found if finding.kind == "grid"]
    assert layers == ([] if smooth else ["body.3"])


def test_a_method_of_ones_own_is_diagnosed():
    own = agf_fx.methods.REGISTRY["gradient"].make(None)
    own = dataclasses.replace(own, name="mine")
    (each,) = agf_fx.compile(relued(-100.0), method=own).diagnose(image(), 1)
    assert [finding.layer for finding in each] == ["act"]


def test_a_method_that_hardly_tells_classes_apart_is_named():
    (finding,) = agf_fx.compile(small(), method="eigencam").diagnose(image(), 1).findings
    assert (finding.kind, finding.severity) == ("class-independent", "note")
    assert "eigencam" in finding.message


def test_equal_classes_are_the_networks_whatever_the_method():
    """LRP-ε is not made to contrast classes, and is not to blame where all have the same weights."""
    model = equal_rows(True)
    model.fc.bias.data = torch.arange(5.0)
    (finding,) = (
        each
        for each in agf_fx.compile(model, method="lrp-epsilon").diagnose(image(), 1).findings
        if each.kind == "class-independent"
    )
    assert (finding.layer, finding.severity) == ("fc", "problem")


def test_a_grid_that_a_convolution_in_front_blurs_is_no_noise():
    torch.manual_seed(0)
    body = {"conv": nn.Conv2d(3, 8, 3, padding=1), "act": nn.ReLU(), "down": nn.Conv2d(8, 8, 1, stride=2)}
    model = network(**body, act2=nn.ReLU(), **pooled(8))
    kinds = {}
    for method in ("agf", "lrp-epsilon"):
        findings = agf_fx.compile(model, method=method).diagnose(image(), 1).findings
        kinds[method] = [(finding.kind, finding.layer) for finding in findings if finding.kind in ("grid", "noisy")]
    assert set(map(tuple, kinds.values())) <= {(("grid", "down"),), ()}
    assert kinds["agf"] == [("grid", "down")]


def test_a_blank_map_has_one_finding():
    model = relued(-100.0)
    assert [finding.kind for finding in agf_fx.compile(model).diagnose(image(), 1).findings] == ["blank"]


def test_noise_is_not_answered_with_the_method_that_has_it():
    for method, advised in (("agf", 'method="gradcam"'), ("gradient", 'method="agf" or "gradcam"')):
        findings = agf_fx.compile(noise_filters(True), method=method).diagnose(image(), 1).findings
        noisy = [finding for finding in findings if finding.kind == "noisy"]
        assert noisy or method == "agf"
        assert all(advised in finding.advice for finding in noisy)


def test_a_constant_image_is_named():
    diagnosis = agf_fx.compile(small(), method="gradient-x-input").diagnose(torch.zeros(1, 3, SIZE, SIZE), 1)
    (finding,) = diagnosis.findings
    assert finding.kind == "blank"
    assert "the image is 0 everywhere" in finding.message
    grey = agf_fx.compile(small(), method="gradcam").diagnose(torch.full((1, 3, SIZE, SIZE), 0.5), 1)
    assert {finding.kind for finding in grey.findings} <= {"blank", "class-independent"}


def test_a_map_of_one_value_is_named():
    model = network(conv=nn.Conv2d(3, 6, SIZE), act=nn.ReLU(), flat=nn.Flatten(), fc=nn.Linear(6, 5))
    nn.init.constant_(model.conv.bias, 1.0)
    options = {"layer": "act", "relu": False}
    (each,) = agf_fx.compile(model, method="gradcam", options=options).diagnose(image(), 1)
    assert [finding.kind for finding in each] == ["blank"]
    assert "one position" in next(iter(each)).message


def test_one_diagnosis_for_each_image_and_target():
    images = torch.cat([image(), image().flip(3)])
    explainer = agf_fx.compile(small())
    found = explainer.diagnose(images, [[0, 1], [2, 3]])
    assert [(each.image, each.target) for each in found] == [(0, 0), (0, 1), (1, 2), (1, 3)]
    assert len(explainer.diagnose(images, top_k=3)) == 6
    alone = explainer.diagnose(images[1:], 3).maps[0]
    assert alone.logit == pytest.approx(found.maps[3].logit, rel=1e-4)
    assert str(found).count("class ") >= 4
    assert "class 0 (cat)" in found.in_words(["cat", "dog", "cow", "hen", "pig"])
    assert repr(found).startswith("Diagnosis(4 maps by agf: ")
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [check["kind"] for check in plain["maps"][3]["checks"]] == list(KINDS)


def test_models_in_float64_and_in_half_precision_are_diagnosed():
    double = agf_fx.compile(copy.deepcopy(small()).double(), method="gradient").diagnose(image().double(), 1)
    (check,) = (check for check in double.maps[0].checks if check.kind == "precision")
    assert "float64 already" in check.left_out
    half = agf_fx.compile(copy.deepcopy(small()).bfloat16(), method="gradient").diagnose(image().bfloat16(), 1)
    (check,) = (check for check in half.maps[0].checks if check.kind == "precision")
    assert check.measured["difference from float64"] < 1e-4  # explained in float32


@pytest.mark.parametrize("kind", ["volume", "one class"])
def test_other_forms_are_diagnosed(kind):
    conv, pool, x = {
        "volume": (nn.Conv3d(3, 6, 3), nn.AdaptiveAvgPool3d(1), torch.rand(1, 3, 6, 6, 6)),
        "one class": (nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), image()),
    }[kind]
    head = nn.Linear(6, 1 if kind == "one class" else 4)
    model = nn.Sequential(conv, nn.ReLU(), pool, nn.Flatten(), head).eval()
    (each,) = agf_fx.compile(model, method="gradient").diagnose(x, 0)
    reasons = {check.kind: check.left_out for check in each.checks}
    assert ("no picture" in reasons["noisy"]) == (kind == "volume")
    assert ("one class" in reasons["class-independent"]) == (kind == "one class")


def test_bad_requests_are_refused_as_elsewhere():
    explainer = agf_fx.compile(small())
    with pytest.raises(InputError, match="images is a str"):
        explainer.diagnose("photo.jpg")
    with pytest.raises(TargetError, match="outside"):
        explainer.diagnose(image(), 7)
    with pytest.raises(OptionsError, match="not both"):
        explainer.diagnose(image(), 1, top_k=2)
    with pytest.raises(NonFiniteInputError):
        explainer.diagnose(image() * torch.nan)


def test_the_model_is_left_alone():
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    agf_fx.compile(model).diagnose(image(), 1)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_lattice_and_strided_kernels_have_the_strength_they_should():
    lattice = torch.zeros(32, 32, dtype=torch.float64)
    lattice[::2, 1::2] = torch.rand(16, 16, dtype=torch.float64) + 0.1
    assert measures.grid(lattice, 2) == pytest.approx(1)
    assert measures.grid(torch.rand(64, 64), 2) < 0.05
    assert measures.grid(torch.rand(4, 4), 2) is None
    share = torch.tensor([1.0, 2.0]).outer(torch.tensor([1.0, 2.0])).repeat(16, 16)  # of a uniform 3x3 with stride 2
    assert measures.grid(share, 2) == pytest.approx(0.28, abs=0.005)


def test_noise_is_rough_and_a_wave_is_not():
    assert measures.roughness(torch.randn(64, 64)) == pytest.approx(1, abs=0.1)
    assert measures.roughness(image(64)[0, 0] - 0.5) < 0.1


SCENE = str(sample_scenes()[0].path)


def test_the_command_line_prints_a_diagnosis():
    done = CliRunner().invoke(app, ["inspect", "digits-vgg", "--image", SCENE, "--diagnose", "--target", "3"])
    assert done.exit_code == 0, done.output
    assert "class 3 (3), logit" in done.output


def test_the_command_line_refuses_a_diagnosis_of_nothing():
    for arguments in (["--diagnose"], ["--diagnose", "--full", "--image", SCENE]):
        assert CliRunner().invoke(app, ["inspect", "digits-vgg", *arguments]).exit_code != 0


@pytest.mark.parametrize("method", ["gradient", "lrp-epsilon"])
def test_ties_that_another_layout_breaks_are_found_at_the_maximum(method, monkeypatch):
    """Which sums round apart depends on the processor, so the other layout's are moved in the last digits here."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    scene = sample_scenes()[0].image()[None]  # on an even ground
    kept, walk = [], Case._walk
    monkeypatch.setitem(CHECKS, "precision", lambda case: kept.append(case) or precision(case))
    layout = agf_fx.CompileOptions(memory_format="contiguous")
    agf_fx.compile(model, method=method, compile_options=layout).diagnose(scene, 0)

    def moved(case, dtype, codes, layout=torch.contiguous_format):
        if layout is torch.channels_last:
            noise = torch.randn(case.image.shape, generator=torch.Generator().manual_seed(0))
            case = dataclasses.replace(case, image=case.image + 1e-5 * noise)
        return walk(case, dtype, codes, layout)

    monkeypatch.setattr(Case, "_walk", moved)
    check = precision(dataclasses.replace(kept[0], drawn=kept[0].drawn.flip(0)))  # as no walk in this layout has it
    assert check.finding.layer == "2"
    assert "makes maxima ties" in check.finding.message
    assert "epsilon" not in check.finding.advice


class Closing(nn.Module):
    """Features times a gate that is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = network(conv=nn.Conv2d(3, 6, 3), act=nn.ReLU()), network(**pooled())

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return self.head(features * nn.functional.hardsigmoid(features.mean((2, 3), keepdim=True) - 50))


def without_weights(bias: float) -> nn.Module:
    """Class 0 has none."""
    model = relued(0.5)
    nn.init.zeros_(model.fc.weight[0])
    nn.init.constant_(model.fc.bias[:1], bias)
    return model


@pytest.mark.parametrize("method", ["gradient", "agf", "lrp-epsilon"])
@pytest.mark.parametrize(
    ("model", "shown", "message"),
    [
        (Closing, image(), "the gate hardsigmoid is closed"),
        (functools.partial(without_weights, 1.0), image(), "the class has no weights in the last layer"),
        (functools.partial(relued, 0.0), torch.zeros(1, 3, SIZE, SIZE), "the image is 0 everywhere|image is constant"),
    ],
)
def test_why_a_map_is_blank(model, shown, message, method):
    torch.manual_seed(0)
    explainer = agf_fx.compile(model().eval(), method=method)
    blank = [finding for finding in explainer.diagnose(shown, 0).findings if finding.kind == "blank"]
    if blank or method != "agf":  # which tells classes apart also where one has no weights
        assert re.search(message, blank[0].message), blank


def dark(x: Tensor) -> Tensor:
    """Features that are 0."""
    return torch.relu(x - 1e3)


class OnEdge(nn.Module):
    """A network that computes with numbers that a function does not take."""

    def __init__(self, function) -> None:
        super().__init__()
        self.body, self.head, self.function = network(conv=nn.Conv2d(3, 6, 3)), network(**pooled()), function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.body(x)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: dark(x) / dark(x).sum(1, keepdim=True), "first at div.Tensor, which divides by 0"),
        (lambda x: torch.log(dark(x) - 5), "first at log, which takes the logarithm of what is not above 0"),
        (lambda x: x * torch.rsqrt(dark(x)), "first at rsqrt, which takes the root of what is not above 0"),
        (lambda x: torch.sqrt(x * 0), "sqrt has no finite derivative at 0, which it reads"),
    ],
)
@pytest.mark.filterwarnings("ignore:maps of images", "ignore:the network computes NaN")
def test_an_operation_beyond_its_edge_is_no_overflow(function, message):
    torch.manual_seed(0)
    diagnosis = agf_fx.compile(OnEdge(function).eval(), method="gradient").diagnose(image(), 1)
    (finding,) = diagnosis.findings
    assert finding.kind == "not-finite"
    assert message in finding.message
    assert "overflows" not in finding.advice


def test_maps_of_logits_that_are_nan_are_warned_of():
    torch.manual_seed(0)
    explainer = agf_fx.compile(OnEdge(lambda x: dark(x) / dark(x).sum(1, keepdim=True)).eval(), method="gradient")
    with pytest.warns(DegenerateMapWarning, match="computes NaN for images \\[0\\]"):
        maps = explainer(image(), 1)
    assert bool((maps == 0).all())


def _halved(site, phi):
    return [None if message is None else 0.5 * message for message in lrp.epsilon_rule(1e-6, bias=False)(site, phi)]


@pytest.mark.parametrize("wrong", [True, False])
def test_a_rule_that_breaks_its_promise_is_told_from_small_denominators(wrong):
    torch.manual_seed(0)
    if wrong:
        rule = dataclasses.replace(lrp.epsilon_rule(1e-6, bias=False), name="halved", function=_halved)
        table = RuleTable.of([(family(Family.CONVOLUTION), rule)]) + epsilon_table(1e-6)
        method, said = relevance_method("mine", table), "the rule does not keep its promise"
    else:
        method, said = REGISTRY["agf"].make(REGISTRY["agf"].options()), "small as what keeps them from 0"
    model = scaled(1.0 if wrong else 1e-10)
    nn.init.constant_(model.fc.weight, 1.0) if wrong else None
    (finding,) = (
        each
        for each in agf_fx.compile(model.eval(), method=method).diagnose(image(), 1).findings
        if each.kind == "not-conserved"
    )
    assert said in finding.message
    assert ("division" in finding.advice) != wrong


class Nothing(nn.Module):
    """A network that multiplies with 0 somewhere."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.body, self.head = network(conv=nn.Conv2d(3, 6, 3), act=nn.ReLU()), network(**pooled())
        self.gain, self.where = nn.Parameter(torch.zeros(6, 1, 1)), where
        if where == "conv":
            nn.init.zeros_(self.body.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x * 0 if self.where == "image" else x)
        features = features * 0 if self.where == "features" else features
        logits = self.head(features * self.gain if self.where == "gain" else features)
        return logits * 0 if self.where == "logits" else logits


@pytest.mark.parametrize("method", ["gradient", "agf", "lrp-epsilon"])
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("image", "mul.Tensor multiplies the signal with 0, so"),
        ("features", "mul.Tensor multiplies the signal with 0, so"),
        ("logits", "mul.Tensor multiplies the signal with 0, so"),
        ("gain", "mul.Tensor multiplies the signal with gain, which is 0 everywhere"),
        ("conv", "conv2d multiplies the signal with body.conv.weight, which is 0 everywhere"),
    ],
)
def test_a_factor_of_0_is_named(where, message, method):
    torch.manual_seed(0)
    explainer = agf_fx.compile(Nothing(where).eval(), method=method)
    (blank,) = (finding for finding in explainer.diagnose(image(), 1).findings if finding.kind == "blank")
    assert message in blank.message
    assert ("forward()" in blank.advice) == (where in ("image", "features", "logits"))


class Branches(nn.Module):
    """Probabilities that are saturated, beside features that are dead."""

    def __init__(self) -> None:
        super().__init__()
        self.sure, self.dead, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        sure = torch.softmax(1e5 * self.sure(x).mean((2, 3)), 1)
        return self.fc(sure + torch.relu(self.dead(x) - 1e4).mean((2, 3)))


def test_a_notebook_shows_a_table_of_findings():
    torch.manual_seed(0)
    model = relued(-100.0)
    model.add_module("<b>", nn.Identity())
    diagnosis = agf_fx.compile(model, method="gradient").diagnose(image(), [[0, 1]])
    text = diagnosis._repr_html_()
    assert text.count("<tr>") == 1 + len(diagnosis.findings) == 3
    assert "Sequential by gradient: 2 findings" in text
    assert "act (%act_relu)" in text
    assert all(word in text for word in ("image 0, class 1", "blank", "all features are 0 behind relu"))
    named = dataclasses.replace(diagnosis, model="<script>")
    assert "&lt;script&gt; by" in named._repr_html_()


class Stopped(nn.Module):
    """Features times something that is 0 for this image."""

    def __init__(self, gate) -> None:
        super().__init__()
        self.body, self.head, self.gate = network(conv=nn.Conv2d(3, 6, 3)), network(**pooled()), gate

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x).relu()
        return self.head(self.gate(features).relu())


@pytest.mark.parametrize("method", ["gradient", "agf", "gradcam"])
@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (lambda y: y * (y > 1e3).float(), "the gate %.* is 0 everywhere"),
        (lambda y: y * 0.0, "multiplies the signal with 0"),
        (lambda y: nn.functional.silu(-y - 200), "all features are 0 behind silu"),
    ],
)
@pytest.mark.filterwarnings("ignore:maps of images")
def test_what_stops_features_is_no_weight_and_no_relu(gate, message, method):
    torch.manual_seed(0)
    diagnosis = agf_fx.compile(Stopped(gate).eval(), method=method).diagnose(image(), 1)
    blank = [finding for finding in diagnosis.findings if finding.kind == "blank"]
    assert blank or method == "gradcam"
    for finding in blank:
        assert re.search(message, finding.message), finding
        assert "weights were loaded; a ReLU" not in finding.advice
        assert "one position" not in finding.message


@pytest.mark.filterwarnings("ignore:maps of images", "ignore:the network computes NaN")
def test_float64_is_advised_where_it_helps():
    torch.manual_seed(0)
    for factor, advised in ((1e25, True), (1e200, False)):
        model = Stopped(lambda y, factor=factor: (y * factor) * factor).double().eval().float()
        advice = agf_fx.compile(model, method="gradient").diagnose(image(), 1).findings[0].advice
        assert ('precision="float64"' in advice) == advised
        assert ("float64 gives no finite map either" in advice) != advised


def test_a_kernel_is_advised_where_its_stride_does_not_divide_it():
    torch.manual_seed(0)
    for kernel in (1, 3):
        model = strided(True)
        model.down = nn.Conv2d(model.down.in_channels, model.down.out_channels, kernel, stride=2)
        nn.init.constant_(model.down.weight, 0.1)
        for finding in agf_fx.compile(model.eval(), method="gradient").diagnose(image(32), 0).findings:
            if finding.kind == "grid":
                assert "a kernel that is a multiple" in finding.advice
    assert agf_fx.compile(small()).diagnose(image(), 1)[0].target == 1


def test_a_gradient_below_0_is_a_slope():
    torch.manual_seed(0)
    model = network(a=nn.Conv2d(3, 6, 3, bias=False), act=nn.ReLU(), **pooled())
    with torch.no_grad():
        model.a.weight.copy_(-model.a.weight.abs())
        model.fc.weight.abs_()
    (note,) = (
        finding
        for finding in agf_fx.compile(model, method="gradient").diagnose(-image() - 0.1, 0).findings
        if finding.kind == "negative"
    )
    assert "That is a slope" in note.message
    assert "gradient-x-input" in note.advice


def test_every_branch_that_is_closed_is_named():
    torch.manual_seed(0)
    diagnosis = agf_fx.compile(Branches().eval(), method="gradient").diagnose(image(), 1)
    (blank,) = (finding for finding in diagnosis.findings if finding.kind == "blank")
    assert "softmax.int is saturated" in blank.message
    assert "all features are 0 behind relu" in blank.message


def lattice_of_images() -> Tensor:
    shown = 0.02 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    shown[..., ::4, ::4] += 1
    return shown


@pytest.mark.parametrize("kernel", [4, 1])
def test_a_grid_of_the_image_is_no_fault_of_the_network(kernel):
    """A stride that reads every pixel alike draws what the image has; one that leaves pixels out its own grid."""
    torch.manual_seed(0)
    model = network(down=nn.Conv2d(3, 6, kernel, stride=4), act=nn.ReLU(), **pooled())
    nn.init.constant_(model.down.weight, 0.1)
    diagnosis = agf_fx.compile(model.eval(), method="gradient-x-input").diagnose(lattice_of_images(), 0)
    (check,) = (check for check in diagnosis.maps[0].checks if check.kind == "grid")
    assert check.measured["period 4"] > 0.8
    assert (check.finding is None) == (kernel == 4)
    assert ("the image itself repeats every 4 pixels" in check.left_out) == (kernel == 4)


def test_relevance_starts_with_a_logit_that_is_not_0():
    torch.manual_seed(0)
    explainer = agf_fx.compile(without_weights(0.0).eval(), method="lrp-epsilon")
    (blank,) = (finding for finding in explainer.diagnose(image(), 0).findings if finding.kind == "blank")
    assert "starts with the logit of the class, and that is 0" in blank.message


def test_a_border_with_the_contrast_of_the_image_is_no_fault():
    torch.manual_seed(0)
    model = network(conv=nn.Conv2d(3, 8, 3), act=nn.ReLU(), further=nn.Conv2d(8, 6, 3), again=nn.ReLU(), **pooled())
    shown = torch.zeros(1, 3, 32, 32)
    shown[..., :2] = torch.rand(1, 3, 32, 2)
    diagnosis = agf_fx.compile(model, method="gradient-x-input").diagnose(shown, 0)
    (check,) = (check for check in diagnosis.maps[0].checks if check.kind == "border")
    assert check.finding is None
    assert "contrast at the border" in check.left_out


@pytest.mark.parametrize("padding", [0, 1])
def test_padding_is_blamed_where_there_is_some(padding):
    torch.manual_seed(0)
    model = framed(5.0)
    model.colour.padding = (padding, padding)
    with torch.no_grad():
        model.whole.weight = nn.Parameter(nn.functional.pad(model.whole.weight, [padding] * 4))
    (found,) = (
        finding
        for finding in agf_fx.compile(model, method="gradient-x-input").diagnose(image(), 0).findings
        if finding.kind == "border"
    )
    assert ("where padding is read" in found.message) == bool(padding)
    assert ("reflect" in found.advice) == bool(padding)
