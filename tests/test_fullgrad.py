"""FullGrad: the published maps and totals, and what contributes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from networks import golden_names, load_golden
from torch import nn

import agf_fx
from agf_fx.errors import AgfFxError
from agf_fx.methods.fullgrad import full_grad, of_biases

aten = torch.ops.aten


def difference(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def total(trace):
    """Everything that contributes, summed: (K, N, 1, 1)."""
    images = trace.images * trace.at_images("gradient")
    found = torch.sum(torch.flatten(images, 2, 4), [2])
    for node, part in of_biases(trace):
        found = found + torch.sum(part, [2] if node.target is aten.linear.default else [2, 3, 4])
    return torch.unsqueeze(torch.unsqueeze(found, 2), 3)


def targets(golden):
    return torch.stack([golden.tensors[f"targets/{target}"] for target in ("top1", "other")], 1)


@pytest.mark.parametrize("name", golden_names())
def test_the_published_code(name):
    golden = load_golden(name)
    found = agf_fx.compile(golden.model, method="fullgrad")(golden.tensors["input"], targets(golden))
    for k, target in enumerate(("top1", "other")):
        assert difference(found[:, k : k + 1], golden.tensors[f"fullgrad/{target}"]) <= 1e-12


@pytest.mark.parametrize("name", golden_names())
def test_contributions_sum_to_the_logit(name):
    golden = load_golden(name)
    method = dataclasses.replace(full_grad(), name="total", read_out=total)
    result = agf_fx.compile(golden.model, method=method).explain(golden.tensors["input"], targets(golden))
    sums = result.maps.flatten(1)
    torch.testing.assert_close(sums, result.logits.gather(1, result.target))
    for k, target in enumerate(("top1", "other")):
        assert difference(sums[:, k], golden.tensors[f"fullgrad_total/{target}"]) <= 1e-12


class NormsFirst(nn.Module):
    """Batch norms with nothing in front to be folded into, without a scale, and a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.norm, self.plain = nn.BatchNorm2d(3), nn.BatchNorm2d(4, affine=False)
        self.conv, self.up, self.fc = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 2, 2), nn.Linear(4, 5)

    def forward(self, x):
        y = torch.relu(self.plain(torch.relu(self.conv(self.norm(x)))))
        return self.fc(torch.relu(self.up(y)).mean((2, 3)))


def test_norms_and_transposed_convolutions_contribute():
    torch.manual_seed(0)
    model = NormsFirst().double().eval()
    with torch.no_grad():
        for norm in (model.norm, model.plain):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)
        model.norm.weight.normal_(1, 0.2)
        model.norm.bias.normal_(0, 0.2)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    method = dataclasses.replace(full_grad(), name="total", read_out=total)
    result = agf_fx.compile(model, method=method).explain(images, 1)
    torch.testing.assert_close(result.maps.flatten(1), result.logits[:, 1:2])
    norms = sum(
        ".norm" in repr(node.meta["module"]) or node.target is torch.ops.aten.batch_norm.default
        for node in agf_fx.capture(model, images).calls
    )
    assert norms == 2
    maps = agf_fx.compile(model, method="fullgrad")(images, 1)
    assert maps.shape == (2, 8, 8)
    assert maps.min() >= 0


class Cropped(nn.Module):
    """Reads columns that the image itself chooses."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        first = (x.mean((1, 2, 3)) * 8).floor().clamp(0, 8).long()
        columns = torch.arange(8)[None] + first[:, None]
        part = x.gather(3, columns[:, None, None, :].expand(-1, 3, x.shape[2], -1))
        return self.fc(torch.relu(self.conv(part)).mean((2, 3)))


@pytest.mark.parametrize("method", ["fullgrad", "gradcam"])
def test_positions_that_the_image_decides_are_unknown(method):
    explainer = agf_fx.compile(Cropped().eval(), method=method, unknown_ops="gradient")
    with pytest.warns(UserWarning, match="gather"), pytest.raises(AgfFxError, match=r"as in the images|feature map"):
        explainer(torch.rand(1, 3, 12, 16), 1)
