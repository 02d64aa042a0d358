"""Contrastive excitation backpropagation and LRP-0, beside their formulas written out for a chain of layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import agf_fx
from agf_fx.errors import CaptureError

IMAGES = torch.randn(2, 3, 10, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def chain():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 2), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(8 * 3 * 2, 12), nn.ReLU(), nn.Linear(12, 5)).double().eval()


def through(layer, x, weight, relevance):
    """x ⊙ Wᵀ(Φ / Wx) by autograd, without a bias."""
    x = x.detach().requires_grad_()
    if isinstance(layer, nn.Conv2d):
        z = F.conv2d(x, weight)
    else:
        z = F.linear(x, weight) if isinstance(layer, nn.Linear) else layer(x)
    s = torch.where(z == 0, torch.zeros_like(z), relevance / z).detach()
    return (x * torch.autograd.grad((z * s).sum(), x)[0]).detach()


def winning(model, target, turned):
    """Marginal winning probabilities at the images; ``turned``: of the head with its weights negated."""
    values = [IMAGES]
    for layer in model:
        values.append(layer(values[-1]).detach())
    relevance = F.one_hot(torch.full((2,), target), 5).double()
    for index in reversed(range(len(model))):
        layer, x = model[index], values[index]
        if isinstance(layer, nn.ReLU):
            continue
        if isinstance(layer, nn.Flatten):
            relevance = relevance.reshape(x.shape)
        elif isinstance(layer, nn.AvgPool2d):
            relevance = through(layer, x, None, relevance)
        else:
            weight = -layer.weight if turned and index == len(model) - 1 else layer.weight
            up, down = weight.detach().clamp(min=0), weight.detach().clamp(max=0)
            y, z = x.clamp(min=0), x.clamp(max=0)
            apply = F.conv2d if isinstance(layer, nn.Conv2d) else F.linear
            total = apply(y, up) + apply(z, down)
            s = torch.where(total == 0, torch.zeros_like(total), relevance / total)
            parts = []
            for part, kernel in ((y, up), (z, down)):
                leaf = part.detach().requires_grad_()
                parts.append(leaf * torch.autograd.grad((apply(leaf, kernel) * s).sum(), leaf)[0])
            relevance = (parts[0] + parts[1]).detach()
    return relevance.sum(1)


@pytest.mark.parametrize("relu", [True, False])
def test_contrast_of_winning_probabilities(relu):
    model = chain()
    options = {"epsilon": 1e-14, "relu": relu}
    found = agf_fx.compile(model, method="contrastive-excitation-backprop", options=options)(IMAGES, [[1, 3], [1, 3]])
    for column, target in enumerate((1, 3)):
        expected = winning(model, target, False) - winning(model, target, True)
        expected = expected.clamp(min=0) if relu else expected
        torch.testing.assert_close(found[:, column], expected, rtol=1e-9, atol=1e-12)


def test_models_without_a_last_layer_are_refused():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            y = self.fc(self.conv(x).relu().mean((2, 3)))
            return y - y.mean(1, keepdim=True)

    with pytest.raises(CaptureError, match=r"behind that .*sub.* makes its logits"):
        agf_fx.compile(Scaled().double().eval(), method="contrastive-excitation-backprop")(IMAGES, 1)


def test_what_follows_the_last_layer_may_average():
    head = nn.Conv2d(3, 4, 3, bias=False).double()
    model, images = nn.Sequential(head, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), IMAGES.abs()
    options = {"epsilon": 1e-14, "relu": False}
    found = agf_fx.compile(model, method="contrastive-excitation-backprop", options=options)(images, [[1, 3], [1, 3]])
    assert found.abs().max() > 0.01
    for column, target in enumerate((1, 3)):
        scores, expected = head(images)[:, target], 0
        arrived = (scores / scores.sum((1, 2), keepdim=True)).detach()
        for weight in (head.weight[target].clamp(min=0), -head.weight[target].clamp(max=0)):
            x = images.clone().requires_grad_()
            parts = torch.nn.functional.conv2d(x, weight[None])[:, 0]
            (gradient,) = torch.autograd.grad((parts * (arrived / parts).detach()).sum(), x)
            expected = (x * gradient).sum(1) - expected
        torch.testing.assert_close(found[:, column], -expected, rtol=1e-9, atol=1e-12)


def test_a_value_of_one_number_per_image_does_not_see_other_images():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            y = self.fc(self.conv(x).relu().mean((2, 3)))
            return y - y.mean(1, keepdim=True)

    model = Centred().double().eval()
    for method, options in (("lrp-0", None), ("agf", {"division": "exact"})):
        explainer = agf_fx.compile(model, method=method, options=options)
        together = explainer(IMAGES, [[0, 1], [2, 0]])
        assert together.abs().max() > 0
        torch.testing.assert_close(explainer(IMAGES[1:], [[0]])[0, 0], together[1, 1], rtol=1e-9, atol=1e-12)


def test_lrp_0_is_the_limit_of_lrp_epsilon():
    model = chain()
    exact = agf_fx.compile(model, method="lrp-0")(IMAGES, 1)
    torch.testing.assert_close(
        agf_fx.compile(model, method="lrp-epsilon", options={"epsilon": 1e-13})(IMAGES, 1), exact
    )
    gradient = agf_fx.compile(model, method="gradient-x-input")(IMAGES, 1)
    torch.testing.assert_close(exact, gradient)  # of networks of ReLUs (Ancona et al. 2018)
