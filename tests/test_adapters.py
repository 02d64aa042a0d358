"""Explanations in other people's tools: Captum's and Quantus' own classes and metrics."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref

import matplotlib
import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel
from captum.attr import visualization as viz
from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from torch import nn

import agf_fx
from agf_fx.captum import AGF, Method
from agf_fx.errors import InputError, OptionsError, TargetError
from agf_fx.quantus import explain

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

matplotlib.use("Agg")
IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 2, 1])


def network(classes=4):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, classes)
    return nn.Sequential(*layers).eval()


MODEL = network()


# Captum


def test_attributions_are_like_the_images_and_sum_to_the_map():
    maps = agf_fx.compile(MODEL)(IMAGES, TARGET)
    found = AGF(MODEL).attribute(IMAGES.requires_grad_(), target=TARGET)
    assert found.shape == IMAGES.shape
    assert not found.requires_grad
    assert torch.allclose(found.sum(1), maps)
    assert all(torch.equal(found[:, 0], found[:, channel]) for channel in range(3))
    (alone,) = AGF(MODEL).attribute((IMAGES,), target=TARGET.tolist())
    assert torch.equal(alone, found)
    same = AGF(MODEL).attribute(IMAGES, target=2), AGF(MODEL).attribute(IMAGES, target=torch.tensor([2]))
    assert torch.equal(*same)
    one = Method(network(1), "gradient")
    assert torch.equal(one.attribute(IMAGES), one.attribute(IMAGES, target=0))


def test_another_method_is_captums_own():
    found = Method(MODEL, "integrated-gradients", {"steps": 7}).attribute(IMAGES, target=TARGET).sum(1)
    expected = IntegratedGradients(MODEL).attribute(IMAGES, target=TARGET, n_steps=7).sum(1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_classes_at_places():
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1)).eval()
    places = [(0, 1, 2), (3, 0, 0), (4, 7, 7)]
    found = Method(dense, "gradient-x-input").attribute(IMAGES, target=places).sum(1)
    for n, (label, row, column) in enumerate(places):
        x = IMAGES[n : n + 1].clone().requires_grad_()
        (slope,) = torch.autograd.grad(dense(x)[0, label, row, column], x)
        assert torch.allclose(found[n], (slope * x)[0].sum(0), atol=1e-6)


def test_captums_tunnel_metrics_and_pictures():
    torch.manual_seed(3)
    tunnel = NoiseTunnel(AGF(MODEL))
    found = tunnel.attribute(IMAGES, nt_type="smoothgrad", nt_samples=4, stdevs=0.1, target=TARGET)
    assert found.shape == IMAGES.shape
    torch.manual_seed(3)
    noisy = torch.normal(0, 0.1, (12, 3, 8, 8)) + IMAGES.repeat_interleave(4, 0)
    maps = AGF(MODEL).attribute(noisy, target=TARGET.repeat_interleave(4))
    assert torch.allclose(found, maps.reshape(3, 4, 3, 8, 8).mean(1), atol=1e-6)
    change = sensitivity_max(AGF(MODEL).attribute, IMAGES, target=TARGET, n_perturb_samples=2)
    assert bool((change > 0).all())
    assert bool(change.isfinite().all())

    @infidelity_perturb_func_decorator(False)
    def noise(images):
        change = 0.1 * torch.randn_like(images)
        return images - change

    found = Method(MODEL, "gradient").attribute(IMAGES, target=TARGET)
    assert infidelity(MODEL, noise, IMAGES, found, target=TARGET, normalize=True).shape == (3,)
    viz.visualize_image_attr(
        found[0].permute(1, 2, 0).numpy(), IMAGES[0].detach().permute(1, 2, 0).numpy(), sign="all", use_pyplot=False
    )


def test_what_captum_classes_refuse():
    with pytest.raises(TargetError, match="give target="):
        AGF(MODEL).attribute(IMAGES)
    with pytest.raises(InputError, match="several inputs"):
        AGF(MODEL).attribute((IMAGES, IMAGES), target=1)
    with pytest.raises(InputError, match="several inputs"):
        AGF(MODEL).attribute(IMAGES, target=1, additional_forward_args=3)
    with pytest.raises(OptionsError):
        Method(MODEL, "lrp-eps")


# Quantus


def quiet(metric, **options):
    return metric(disable_warnings=True, display_progressbar=False, normalise=False, abs=False, **options)


def test_explain_func_takes_and_gives_arrays():
    x, y = IMAGES.detach().numpy(), TARGET.numpy()
    found = explain(MODEL, x, y, device="cpu", method="lrp-epsilon", epsilon=0.1)
    expected = agf_fx.compile(MODEL, method="lrp-epsilon", options={"epsilon": 0.1})(IMAGES.detach(), TARGET)
    assert (found.shape, found.dtype) == ((3, 1, 8, 8), np.float32)
    assert np.array_equal(found[:, 0], expected.numpy())
    assert explain(MODEL, x.astype(np.float64), y).dtype == np.float64
    with pytest.raises(InputError, match="one class for each"):
        explain(MODEL, x, y[:2])
    with pytest.raises(OptionsError, match="epsilons"):
        explain(MODEL, x, y, method="lrp-epsilon", epsilons=0.1)


def test_copies_have_maps_of_their_own_and_are_forgotten():
    x, y = IMAGES.detach().numpy(), TARGET.numpy()
    other = copy.deepcopy(MODEL)
    with torch.no_grad():
        other[0].weight.neg_()
    found = explain(other, x, y)
    assert np.array_equal(found[:, 0], agf_fx.compile(other)(IMAGES.detach(), TARGET).numpy())
    assert not np.array_equal(found, explain(MODEL, x, y))
    wrapped = nn.DataParallel(other)
    assert np.array_equal(found, explain(wrapped, x, y))
    with torch.no_grad():
        other[0].weight.neg_()
    assert np.array_equal(explain(other, x, y), explain(MODEL, x, y))
    alive = weakref.ref(other)
    del other, wrapped
    for method in ("gradient", "deconvnet", "lrp-0", "lrp-epsilon"):
        explain(MODEL, x, y, method=method)
    gc.collect()
    assert alive() is None


def test_quantus_metrics_run():
    given = {"model": MODEL, "x_batch": IMAGES.detach().numpy(), "y_batch": TARGET.numpy(), "explain_func": explain}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sensitive = quiet(quantus.MaxSensitivity, nr_samples=2)(**given)
        sparse = quiet(quantus.Sparseness)(**given, explain_func_kwargs={"method": "gradient-x-input"})
        random = quiet(quantus.MPRT, return_average_correlation=False)(**given)
    assert len(sensitive) == 3
    assert all(value > 0 for value in sensitive)
    assert len(sparse) == 3
    assert min(random.pop("original")) > 0.999
    assert len(random) == 2  # layers
    assert all(abs(value) < 0.999 for values in random.values() for value in values)
