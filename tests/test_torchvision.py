"""The classifiers of torchvision: a small member of every family, and unmodified ones at their usual image size."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from classifiers import SMALL, small_classifier
from coverage_report.case import compiled
from coverage_report.checks import check, failures
from coverage_report.networks import build, random_images
from torchvision import models

import agf_fx

# A plain network, residual blocks, a transformer.
UNMODIFIED = ["alexnet", "resnet50", "vit_b_32"]


@pytest.fixture(autouse=True)
def _memory_given_back():
    yield
    gc.collect()


def test_no_family_is_left_out():
    builders = map(models.get_model_builder, models.list_models(module=models))
    assert {builder.__module__.rpartition(".")[2] for builder in builders} == {key.partition(",")[0] for key in SMALL}


@pytest.mark.parametrize("family", SMALL)
def test_small_members(family):
    model, size = small_classifier(family, torch.float64), SMALL[family][1]
    case = compiled(model, random_images(2, size, torch.float64, seed=2))
    assert failures(check(case)) == []


@pytest.mark.parametrize("name", UNMODIFIED)
def test_unmodified_models_in_single_precision(name):
    model = build(name, 224, torch.float32)
    images = random_images(1, 224, torch.float32, seed=2)
    result = agf_fx.compile(model, images).explain(images, target=7)
    assert result.maps.shape == (1, 1, 224, 224)
    assert result.maps.isfinite().all()
    assert result.maps.std() > 0
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(images.double())
        rounding = (model(images) - exact).abs().max()
    assert (result.logits - exact).abs().max() <= 4 * rounding  # folded batch norms round elsewhere, not worse
