"""Baselines: their forms, one or several of them, and methods that compare with them beside Captum."""

from __future__ import annotations

import itertools
import warnings

import captum.attr
import networks
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import agf_fx
from agf_fx.errors import ExportError, OptionsError
from agf_fx.methods import REGISTRY
from agf_fx.methods.baseline import Baseline
from agf_fx.runtime.degenerate import DegenerateMapWarning

GENERATOR = torch.Generator().manual_seed(5)
IMAGES = torch.randn(3, 3, 32, 32, generator=GENERATOR).double()
BASELINES = torch.randn(4, 3, 32, 32, generator=GENERATOR).double() / 2
TARGETS = torch.tensor([[0, 1], [2, 3], [4, 0]])
WITH_ONE = ("deeplift", "integrated-gradients", "gradient-shap")
WITH_SEVERAL = ("deep-shap", "expected-gradients")


def vgg():
    return networks.small_vgg().eval()


def explained(method, images=IMAGES, target=TARGETS, model=None, compile_options=None, **options):
    model = model or vgg()
    return agf_fx.compile(model, method=method, options=options, compile_options=compile_options).explain(
        images, target
    )


def maps(method, *args, **options):
    return explained(method, *args, **options).maps


def difference(found, expected):
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


# --- their forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", WITH_ONE)
def test_one_baseline_in_any_form(method, tmp_path):
    baseline = BASELINES[0]
    expected = maps(method, baseline=baseline)
    np.save(tmp_path / "baseline.npy", baseline.numpy())
    torch.save(baseline[None], tmp_path / "baseline.pt")
    save_file({"x": baseline}, tmp_path / "baseline.safetensors")
    for form in (baseline[None], baseline.numpy(), Baseline(baseline), *tmp_path.iterdir()):
        assert torch.equal(maps(method, baseline=form), expected)
    words = REGISTRY[method].parsed([f"baseline={tmp_path / 'baseline.npy'}"])
    assert words == REGISTRY[method].options(baseline=baseline)
    assert REGISTRY[method].parsed(["baseline=0.5"]).baseline == 0.5
    constant = maps(method, baseline=torch.full_like(baseline, 0.25))
    torch.testing.assert_close(maps(method, baseline=0.25), constant, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("method", WITH_ONE + WITH_SEVERAL)
def test_a_baseline_is_copied_and_tells_maps_apart(method):
    own, options = BASELINES[:1].clone(), REGISTRY[method].options
    compiled = agf_fx.compile(vgg(), IMAGES, method=method, options={"baseline": own})
    expected, first = compiled(IMAGES, TARGETS), options(baseline=own)
    own.zero_()
    assert torch.equal(compiled(IMAGES, TARGETS), expected)
    assert first == options(baseline=BASELINES[:1])
    assert hash(first) == hash(options(baseline=BASELINES[:1]))
    assert first != options(baseline=own)
    other = agf_fx.compile(vgg(), IMAGES, method=method, options={"baseline": own})
    assert other.fingerprint != compiled.fingerprint
    assert not torch.equal(other(IMAGES, TARGETS), expected)


@pytest.mark.parametrize("method", WITH_ONE)
def test_a_baseline_in_another_dtype_is_cast_as_images_are(method):
    single = vgg().float()
    found = maps(method, IMAGES.float(), model=single, baseline=BASELINES[0])
    assert torch.equal(found, maps(method, IMAGES.float(), model=single, baseline=BASELINES[0].float()))
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (float("nan"), "give a finite number"),
        (True, "baseline is a bool"),
        ([0.0], "baseline is a list; give a number, or images"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), "baseline holds uint8; give floating-point images"),
        (torch.full((3, 32, 32), torch.inf), "NaN or infinite"),
        (torch.zeros(0, 3, 32, 32), "is empty"),
        ("black.png", r"baseline is 'black\.png'; give a number, or a file that ends in \.npy"),
        ("absent.npy", r"baseline is 'absent\.npy'"),
        (torch.zeros(3, 16, 16), r"baseline has the shape \(3, 16, 16\), and images are \(3, 32, 32\); give one of"),
        (torch.zeros(1, 2, 3, 32, 32), "baseline has the shape"),
    ],
)
@pytest.mark.parametrize("method", WITH_ONE + WITH_SEVERAL)
def test_baselines_without_meaning(method, baseline, message):
    with pytest.raises(OptionsError, match=message):
        explained(method, baseline=baseline)


@pytest.mark.parametrize("name", ["damaged.npy", "damaged.pt", "damaged.safetensors"])
def test_files_that_hold_no_baseline(name, tmp_path):
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(OptionsError, match="cannot be read"):
        explained("deeplift", baseline=tmp_path / name)
    torch.save({"a": BASELINES, "b": BASELINES}, tmp_path / "two.pt")
    with pytest.raises(OptionsError, match="holds 2 tensors"):
        explained("deeplift", baseline=tmp_path / "two.pt")


@pytest.mark.parametrize("method", WITH_ONE)
def test_several_baselines_are_refused_where_one_is_wanted(method):
    with pytest.raises(OptionsError, match=r"baseline holds 4 images.*choose deep-shap or expected-gradients"):
        explained(method, baseline=BASELINES)


def test_an_image_that_is_the_baseline_is_told():
    with pytest.warns(DegenerateMapWarning, match="the images are the baseline"):
        explained("deeplift", BASELINES[:1], 1, baseline=BASELINES[0])


# --- several ---------------------------------------------------------------------------------------------------------


def test_deep_shap_is_the_mean_of_deeplift():
    found = explained("deep-shap", baseline=BASELINES)
    expected = torch.stack([maps("deeplift", baseline=one) for one in BASELINES]).mean(0)
    torch.testing.assert_close(found.maps, expected, rtol=1e-12, atol=1e-15)
    with torch.no_grad():
        sums = (found.logits - vgg()(BASELINES).mean(0)).gather(1, TARGETS)
    torch.testing.assert_close(found.maps.sum((2, 3)), sums, rtol=1e-9, atol=1e-12)


def test_deep_shap_in_pieces_and_at_layers():
    few = agf_fx.CompileOptions(max_batch=2)
    found = maps("deep-shap", compile_options=few, baseline=BASELINES)
    torch.testing.assert_close(found, maps("deep-shap", baseline=BASELINES), rtol=1e-9, atol=1e-12)
    compiled = agf_fx.compile(vgg(), method="deep-shap", options={"baseline": BASELINES})
    several = compiled.explain(IMAGES, TARGETS, layers=["features.3"], quantities=["gradient", "value"])
    single = [
        agf_fx.compile(vgg(), method="deeplift", options={"baseline": one}).explain(
            IMAGES, TARGETS, layers=["features.3"], quantities=["gradient", "value"]
        )
        for one in BASELINES
    ]
    mean = torch.stack([one.layers["features.3"] for one in single]).mean(0)
    torch.testing.assert_close(several.layers["features.3"], mean, rtol=1e-9, atol=1e-15)
    assert torch.equal(several.quantities["features.3"].value, single[0].quantities["features.3"].value)


@pytest.mark.parametrize("method", WITH_SEVERAL)
def test_maps_of_several_baselines_do_not_see_other_images(method):
    found = maps(method, baseline=BASELINES)
    alone = maps(method, IMAGES[1:2], TARGETS[1:2, 1:], baseline=BASELINES)
    torch.testing.assert_close(alone[0, 0], found[1, 1], rtol=1e-9, atol=1e-12)


def test_expected_gradients_belong_to_their_seed():
    once = maps("expected-gradients", baseline=BASELINES)
    assert torch.equal(once, maps("expected-gradients", baseline=BASELINES))
    assert not torch.equal(once, maps("expected-gradients", baseline=BASELINES, seed=1))


# --- Captum ----------------------------------------------------------------------------------------------------------


def apart() -> nn.Module:
    """A network of which Captum's maps sum to the difference of logits; see tests/test_deeplift.py."""
    torch.manual_seed(0)
    return (
        nn.Sequential(
            *(
                nn.Conv2d(3, 6, 3, padding=1),
                nn.ReLU(),
                nn.AvgPool2d(1),
                nn.MaxPool2d(2),
                nn.Conv2d(6, 8, 3),
                nn.Tanh(),
            ),
            *(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 5)),
        )
        .double()
        .eval()
    )


def test_deep_shap_of_captum():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lift = captum.attr.DeepLiftShap(apart())
        # Captum takes the gradient of its first image for that of all where a maximum's input is the baseline's.
        rows = [
            lift.attribute(IMAGES[i : i + 1].clone(), BASELINES.clone(), target=int(TARGETS[i, 1])) for i in range(3)
        ]
    expected = torch.cat(rows).sum(1, keepdim=True).detach()
    assert difference(maps("deep-shap", IMAGES, TARGETS[:, 1:], model=apart(), baseline=BASELINES), expected) <= 1e-6


def test_expected_gradients_of_captum(monkeypatch):
    image, samples = IMAGES[:1], 12
    draws = torch.rand(2, samples, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    choices = (draws[1] * len(BASELINES)).long().numpy()
    assert len(set(choices.tolist())) > 2
    monkeypatch.setattr(np.random, "choice", lambda count, size: choices[:size])
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: draws[0].numpy()[:size])
    theirs = captum.attr.GradientShap(vgg()).attribute(image, BASELINES, n_samples=samples, stdevs=0.0, target=1)
    found = maps("expected-gradients", image, 1, samples=samples, seed=7, baseline=BASELINES)
    assert difference(found[:, 0], theirs.sum(1).detach()) <= 1e-6


def test_integrated_gradients_of_captum_from_an_image():
    integrate = captum.attr.IntegratedGradients(vgg())
    theirs = integrate.attribute(IMAGES, BASELINES[:1].expand_as(IMAGES), TARGETS[:, 0], n_steps=13)
    found = maps("integrated-gradients", IMAGES, TARGETS[:, :1], steps=13, baseline=BASELINES[0])
    assert difference(found[:, 0], theirs.sum(1).detach()) <= 1e-6


def test_gradient_shap_of_captum_from_an_image(monkeypatch):
    image, samples = IMAGES[:1], 6
    positions = torch.rand(samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: positions[:size])
    theirs = captum.attr.GradientShap(vgg()).attribute(image, BASELINES[:1], n_samples=samples, stdevs=0.0, target=1)
    found = maps("gradient-shap", image, 1, samples=samples, noise=0.0, baseline=BASELINES[0])
    assert difference(found[:, 0], theirs.sum(1).detach()) <= 1e-6


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "format"),
    [
        *itertools.product(["deeplift", "integrated-gradients", "deep-shap"], ["torchscript", "export", "onnx"]),
        ("deep-shap", "aoti"),  # compiling takes half a minute
    ],
)
def test_files_hold_the_baselines(method, format, tmp_path):
    options = {"baseline": BASELINES if method == "deep-shap" else BASELINES[0]}
    options |= {"steps": 5} if method == "integrated-gradients" else {}
    compiled = agf_fx.compile(vgg().float(), method=method, options=options)
    expected = compiled.explain(IMAGES.float(), top_k=2)
    path = tmp_path / f"explainer.{ {'torchscript': 'pt', 'onnx': 'onnx'}.get(format, 'pt2') }"
    compiled.export(path, format)
    found = agf_fx.load(path).explain(IMAGES.float(), top_k=2)
    assert torch.equal(found.target, expected.target)
    assert difference(found.maps, expected.maps) < 1e-4
    alone = agf_fx.load(path).explain(IMAGES[:1].float(), top_k=1)
    assert difference(alone.maps, expected.maps[:1, :1]) < 1e-4


def test_what_is_drawn_is_not_exported(tmp_path):
    compiled = agf_fx.compile(vgg(), IMAGES, method="expected-gradients", options={"baseline": BASELINES})
    with pytest.raises(ExportError, match="expected-gradients draws its points at random"):
        compiled.export(tmp_path / "explainer.pt")
