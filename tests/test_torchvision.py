"""The torchvision families of the papers, unmodified, at their usual image size."""

from __future__ import annotations

import gc

import pytest
import torch
import torchvision
from torch import nn

import agf_fx

NAMES = [
    "alexnet",
    *(f"vgg{depth}{bn}" for depth in (11, 13, 16, 19) for bn in ("", "_bn")),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
]


@pytest.fixture(autouse=True)
def _memory_given_back():
    yield
    gc.collect()


def test_no_model_of_these_families_is_left_out():
    families = ("alexnet", "vgg", "resnet", "wide_resnet", "resnext")
    assert {n for n in torchvision.models.list_models(module=torchvision.models) if n.startswith(families)} == set(
        NAMES
    )


@pytest.mark.parametrize("name", NAMES)
def test_unmodified_models_give_finite_maps(name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.3)  # untrained residual sums grow, to logits of 1e8 in resnet152
    images = torch.randn(1, 3, 224, 224)
    result = agf_fx.compile(model, images).explain(images, target=7)
    assert result.maps.shape == (1, 1, 224, 224)
    assert result.maps.isfinite().all()
    with torch.no_grad():
        torch.testing.assert_close(
            result.logits, model(images), rtol=1e-5, atol=1e-5 * result.logits.abs().max().item()
        )
    assert result.maps.std() > 0
