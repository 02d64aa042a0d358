"""What a diagnosis finds: networks built to have one fault each, and their healthy twins."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import agf_fx

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
    "dead ReLU, gradcam": Row("blank", relued, -100.0, 0.5, "act", "gradcam", {"layer": "conv", "relu": False}),
    "closed gate": Row("blank", Gated, 100.0, -100.0, "", "agf"),
    "saturated clamp": Row("blank", bounded, 50.0, -5.0, "bound"),
    "saturated softmax": Row("blank", Averaged, 1e4, 1.0, "soft.1"),
    "logits far apart": Row("blank", far_apart, 1e6, 1.0, "fc", "agf"),
    "only against the class": Row("blank", speaking, -1.0, 1.0, "", "gradcam", {"layer": "act"}),
    "random filters": Row("noisy", noise_filters, True, False, "whole"),
    "equal classes": Row("class-independent", equal_rows, True, False, "fc", "agf"),
    "one number": Row("class-independent", squeezed, 1, 8, "squeeze"),
    "lattice": Row("grid", strided, True, False, "down", "agf", size=32),
    "lattice, gradient": Row("grid", strided, True, False, "down", size=32),
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
    explainer = agf_fx.compile(row.make(value), method=row.method, options=row.options)
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
