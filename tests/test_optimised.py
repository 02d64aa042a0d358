"""The optimised graph computes what the emitted one does, on networks as they are used."""

from __future__ import annotations

import pytest
import torch
from emission import weights
from networks import load_golden

import agf_fx
from agf_fx.data import sample_scenes
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.options import AGFOptions
from agf_fx.pipeline import lower

# Single precision: the two graphs round differently, and the maps of these networks move by up to 1e-6 of their largest
# entry when every operation is rounded to float32 at all (docs/measurements.md, "Precision").
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["digits-vgg", "digits-resnet", "digits-basic"])
def test_bundled_networks(name, dtype):
    """In float32 on noise: of the equal values of an even ground, rounding decides which one is the largest."""
    loaded = agf_fx.load_model(name)
    model = loaded.model.to(dtype)
    scenes = [loaded.preprocessing.prepare(agf_fx.read_image(scene.path))[0] for scene in sample_scenes()[:4]]
    images, target = torch.stack(scenes).double(), torch.tensor([[-1, -2, 0]] * 4)
    if dtype is torch.float32:
        images = (images + 0.1 * torch.randn(images.shape, dtype=torch.float64)).to(dtype)
    explainer = agf_fx.compile(model, images)
    optimised = explainer.explain(images, top_k=2).maps
    canonical = explainer.graph.canonical
    emitted = lower(canonical, attribution_guided_factorization(AGFOptions()), optimisations=())
    with torch.no_grad():
        expected, _ = emitted.module(images, target, *weights(canonical, model).values())
    for maps, reference in zip(optimised.flatten(0, 1), expected[:, :2].flatten(0, 1), strict=True):
        assert (maps - reference).abs().max() <= TOLERANCE[dtype] * reference.abs().max()


def test_values_are_freed_at_their_last_use():
    golden = load_golden("resnet_tiny.in64")
    code = agf_fx.compile(golden.model, torch.zeros(1, 3, 64, 64).double()).graph.module.code
    lines = [line for line in code.splitlines() if " = torch.ops." in line]
    assert sum("= None" in line for line in lines) > 0.5 * len(lines)
