"""SmoothGrad and its relatives: averages over noise by autograd, and Captum's on the same noise."""

from __future__ import annotations

import captum.attr
import networks
import numpy as np
import pytest
import torch

import agf_fx
from agf_fx.errors import ExportError, OptionsError
from agf_fx.methods.noise import drawn, spread

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
TARGETS = torch.tensor([[1, 3], [0, 4], [2, 2]])
METHODS = ("smoothgrad", "smoothgrad-squared", "vargrad", "gradient-shap")


def vgg():
    torch.manual_seed(0)
    return networks.small_vgg().eval()


def maps(name, images=IMAGES, target=TARGETS, **options):
    return agf_fx.compile(vgg(), method=name, options={"samples": 6, **options})(images, target)


def by_autograd(name, samples, noise, seed):
    model, found = vgg(), []
    positions = torch.rand(samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for index in range(samples):
        noisy = IMAGES + noise * spread(IMAGES) * drawn(IMAGES, seed, index)
        x = (noisy * positions[index] if name == "gradient-shap" else noisy).requires_grad_()
        rows = [torch.autograd.grad(model(x).gather(1, TARGETS[:, k : k + 1]).sum(), x)[0] for k in range(2)]
        gradient = torch.stack(rows, 1)
        found.append(gradient * noisy.detach().unsqueeze(1) if name == "gradient-shap" else gradient)
    values = torch.stack(found)
    squares = (values**2).mean(0)
    wanted = {"smoothgrad-squared": squares, "vargrad": squares - values.mean(0) ** 2}.get(name, values.mean(0))
    return wanted.sum(2)


@pytest.mark.parametrize("name", METHODS)
def test_averages_over_noise(name):
    found = maps(name, noise=0.2, seed=3)
    expected = by_autograd(name, 6, 0.2, 3)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("name", METHODS)
def test_captums_on_the_same_noise(name, monkeypatch):
    model, image = vgg(), IMAGES[:1]
    noise = torch.cat([drawn(image, 0, index) for index in range(6)])
    positions = torch.rand(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    monkeypatch.setattr(torch, "normal", lambda mean, std: noise * std)
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: positions[:size].astype(np.float32))
    deviation = 0.1 * float(spread(image))
    if name == "gradient-shap":
        method = captum.attr.GradientShap(model)
        theirs = method.attribute(image, torch.zeros_like(image), n_samples=6, stdevs=deviation, target=1)
    else:
        kind = {"smoothgrad": "smoothgrad", "smoothgrad-squared": "smoothgrad_sq", "vargrad": "vargrad"}[name]
        tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(model))
        theirs = tunnel.attribute(image, nt_type=kind, nt_samples=6, stdevs=deviation, target=1, abs=False)
    expected = theirs.sum(1)
    difference = (maps(name, image, 1, noise=0.1) - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_maps_depend_on_the_seed_alone(name):
    once = maps(name)
    assert torch.equal(once, maps(name))
    assert not torch.equal(once, maps(name, seed=1))
    torch.testing.assert_close(maps(name, IMAGES[1:2], TARGETS[1:2]), once[1:2], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_drawn_is_not_exported(name, tmp_path):
    explainer = agf_fx.compile(vgg(), IMAGES, method=name)
    with pytest.raises(ExportError, match=rf"{name} draws its points at random"):
        explainer.export(tmp_path / "explainer.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples is 0; give a whole number of 1 or more"),
        ({"samples": 2.0}, r"samples is 2\.0"),
        ({"seed": -1}, "seed is -1"),
        ({"noise": -0.1}, r"noise is -0\.1; give a number of 0 or more"),
        ({"noise": float("nan")}, "noise is nan"),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_options_without_meaning(name, options, message):
    with pytest.raises(OptionsError, match=message):
        agf_fx.compile(vgg(), method=name, options=options)


@pytest.mark.parametrize("noise", [0.15, 1e-4])
def test_a_variance_keeps_its_digits_where_gradients_hardly_differ(noise):
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 6, 3), torch.nn.SiLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    model = torch.nn.Sequential(*layers, torch.nn.Linear(6, 5)).eval()
    options = {"noise": noise, "samples": 10}
    found, expected = (
        agf_fx.compile(model, method="vargrad", options=options, precision=precision)(IMAGES[:2].float(), 1)
        for precision in (None, "float64")
    )
    assert expected.max() > 0
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=5e-3 * float(expected.max()))
