"""Methods that search for masks, beside the same searches by autograd."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import agf_fx
from agf_fx.errors import ExportError, OptionsError

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
TARGETS = torch.tensor([[0, 2], [1, 3], [2, 0]])
MEANINGFUL = {"steps": 12, "cells": 4, "area_weight": 1e-4, "smoothness_weight": 1e-3, "smoothness": 1.0, "sigma": 3.0}
EXTREMAL = {"steps": 12, "cells": 4, "width": 2.0, "areas": 0.2, "learning_rate": 0.002, "sigma": 3.0, "levels": 3}
EACH = {"meaningful-perturbation": MEANINGFUL | {"jitter": 0}, "extremal-perturbation": EXTREMAL}


def vgg():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)).double().eval()


def blur(values, deviation):
    """(..., H, W) blurred, weights in the image summing to 1."""
    for dim in (-2, -1):
        if deviation:
            at = torch.arange(values.shape[dim]).double()
            weights = torch.exp(-((at[:, None] - at) ** 2) / (2 * deviation**2))
            values = (values.movedim(dim, -1) @ (weights / weights.sum(1, keepdim=True)).T).movedim(-1, dim)
    return values


def move(image, step, jitter, seed=0):
    generator = torch.Generator().manual_seed((seed << 20) + step)
    for dim, shift in enumerate(torch.randint(jitter + 1, (2,), generator=generator).tolist(), 1):
        image = image.index_select(dim, (torch.arange(16) - shift).clamp_min(0))
    return image


def meaningful(model, image, target, jitter, baseline=None):
    """1 - m after the steps, with PyTorch's Adam."""
    mask = torch.full((1, 1, 4, 4), 0.5).double().requires_grad_()
    optimiser = torch.optim.Adam([mask], lr=0.1)
    instead = blur(image, MEANINGFUL["sigma"]) if baseline is None else baseline

    def enlarged():
        wide = F.interpolate(1 - mask, (16, 16), mode="bilinear", align_corners=False)
        return blur(wide, MEANINGFUL["smoothness"])[0, 0]

    for step in range(MEANINGFUL["steps"]):
        seen, hidden = move(image, step, jitter), move(instead, step, jitter)
        p = model((seen + enlarged() * (hidden - seen))[None]).softmax(1)[0, target]
        variation = sum((mask.diff(dim=dim).abs() ** 3).sum() for dim in (2, 3))
        optimiser.zero_grad()
        (p + 1e-4 * (1 - mask).mean() + 1e-3 * variation).backward()
        optimiser.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
    return enlarged().detach()


@functools.cache
def shown_by(width):
    """What cells show of the pixels of the image and of 8 around it: the cell, and how much, both (1024, near)."""

    def shown(u, v, a, b):
        away = (((u - (4 * a + 1.5)) ** 2 + (v - (4 * b + 1.5)) ** 2) ** 0.5) / width
        return math.exp(-(max(0.0, away - 1) ** 2) / 4)

    pixels = list(itertools.product(range(4), repeat=2))
    near = [
        (a, b)
        for a, b in itertools.product(range(-4, 5), repeat=2)
        if max(shown(u, v, a, b) for u, v in pixels) >= 0.05
    ]
    assert max(map(max, near)) == 2  # pixels that nothing shows are beyond 8
    cells, kernel = torch.zeros(1024, len(near), dtype=torch.long), torch.zeros(1024, len(near)).double()
    for row, (u, v) in enumerate(itertools.product(range(-8, 24), repeat=2)):
        for column, (i, j) in enumerate(near):
            a, b = u // 4 + i, v // 4 + j
            if 0 <= a < 4 and 0 <= b < 4:
                cells[row, column], kernel[row, column] = 4 * a + b, shown(u, v, a, b)
    return cells, kernel


def smooth_maximum(mask, width=2.0):
    """Every pixel's smooth maximum over the cells near its own, those outside of the image 0."""
    cells, kernel = shown_by(width)
    shown = kernel * mask.flatten()[cells]
    return (shown * torch.softmax(shown * 20, 1)).sum(1).reshape(32, 32)


INSIDE = slice(8, 24)


def ideal(mask, area):
    """1 for as many of the largest values as are this part of the image, and 0 for others, equal ones sharing."""
    values, seen = (mask.flatten() * 4096).round(), round(area * 16 * 16)
    result = torch.zeros_like(values)
    for value in values.unique().tolist():
        above, here = int((values > value).sum()), int((values == value).sum())
        result[values == value] = min(max(seen - above, 0), here) / here
    return result.reshape(mask.shape)


def extremal(model, image, target, area):
    """The mask after the steps, with PyTorch's SGD."""
    mask = torch.ones(4, 4).double().requires_grad_()
    optimiser = torch.optim.SGD([mask], lr=EXTREMAL["learning_rate"], momentum=0.9)
    levels = torch.stack([blur(image, EXTREMAL["sigma"] * level / 3) for level in range(4)])
    for step in range(EXTREMAL["steps"]):
        shown = smooth_maximum(mask)
        depth = (1 - shown[INSIDE, INSIDE]) * 3
        upper = depth.detach().floor().clamp(0, 2).long()
        near, far = (levels.gather(0, (upper + more).expand(1, 3, -1, -1))[0] for more in (0, 1))
        logit = model((near + (depth - upper) * (far - near))[None])[0, target]
        off = (shown - ideal(shown.detach(), area)).square().sum() / (16 * 16)
        optimiser.zero_grad()
        (300 * 1.0035**step * off - logit).backward()
        optimiser.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
    return smooth_maximum(mask).detach()[INSIDE, INSIDE]


@pytest.mark.parametrize(("jitter", "baseline"), [(0, None), (2, None), (0, torch.rand(3, 16, 16).double())])
def test_meaningful_perturbation_is_that_of_autograd(jitter, baseline):
    options = MEANINGFUL | {"jitter": jitter} | ({} if baseline is None else {"baseline": baseline, "sigma": None})
    found = agf_fx.compile(vgg(), method="meaningful-perturbation", options=options)(IMAGES, TARGETS)
    for image, targets, maps in zip(IMAGES, TARGETS.tolist(), found, strict=True):
        for target, one in zip(targets, maps, strict=True):
            expected = meaningful(vgg(), image, target, jitter, baseline)
            assert expected.std() > 1e-3
            assert (one - expected).abs().max() <= 1e-7  # Adam divides by the size of gradients


def test_extremal_perturbation_is_that_of_autograd():
    found = agf_fx.compile(vgg(), method="extremal-perturbation", options=EXTREMAL)(IMAGES[:2], TARGETS[:2, :1])
    for image, (target,), (one,) in zip(IMAGES, TARGETS[:, :1].tolist(), found, strict=False):
        expected = extremal(vgg(), image, target, EXTREMAL["areas"])
        assert expected.std() > 1e-2
        assert (one - expected).abs().max() <= 1e-6  # smooth maxima make 20 times as much of rounding at every step


def test_several_areas_are_added():
    alone = [
        agf_fx.compile(vgg(), method="extremal-perturbation", options=EXTREMAL | {"areas": area})(IMAGES, TARGETS)
        for area in (0.1, 0.3)
    ]
    both = agf_fx.compile(vgg(), method="extremal-perturbation", options=EXTREMAL | {"areas": (0.1, 0.3)})
    assert (both(IMAGES, TARGETS) - sum(alone)).abs().max() <= 1e-9


@pytest.mark.parametrize("method", EACH)
def test_rows_are_apart(method):
    options = EACH[method] | {"tolerance": 0.01, "patience": 2, "steps": 20}
    explainer = agf_fx.compile(vgg(), method=method, options=options)
    whole = explainer.explain(IMAGES, TARGETS)
    assert torch.equal(whole.logits, vgg()(IMAGES))
    for index in range(3):
        alone = explainer(IMAGES[index : index + 1], TARGETS[index : index + 1, 1])
        assert (alone[0] - whole.maps[index, 1]).abs().max() <= 1e-9
    two = agf_fx.CompileOptions(max_batch=2)
    pieces = agf_fx.compile(vgg(), method=method, options=options, compile_options=two)(IMAGES, TARGETS)
    assert (pieces - whole.maps).abs().max() <= 1e-9


@pytest.mark.parametrize("method", EACH)
def test_rows_stop_by_themselves(method, monkeypatch):
    explainer = agf_fx.compile(vgg(), IMAGES, method=method, options=EACH[method] | {"steps": 40, "tolerance": 0.05})
    program, seen = explainer._binding.of(IMAGES).program, []
    run = type(program).run
    monkeypatch.setattr(type(program), "run", lambda self, x, *more: seen.append(len(x)) or run(self, x, *more))
    explainer(IMAGES, TARGETS)
    assert seen[0] == 3  # for the logits
    assert seen[1] == 6
    assert seen[1:] == sorted(seen[1:], reverse=True)
    assert sum(seen[1:]) < 6 * 40


@pytest.mark.parametrize("method", EACH)
def test_precision_signals_and_what_cannot_be(method, tmp_path):
    explainer = agf_fx.compile(vgg().float(), method=method, options=EACH[method])
    result = explainer.explain(IMAGES.float(), TARGETS, check=True)
    assert result.maps.dtype == torch.float32
    assert float(result.precision.median()) < 0.05
    with pytest.raises(ExportError, match="step by step"):
        explainer.export(tmp_path / "explainer.pt")
    with pytest.raises(OptionsError, match="nothing to say of layers"):
        explainer.explain(IMAGES.float(), 1, layers=["0"])
    with pytest.raises(OptionsError, match="no relevance"):
        explainer.conservation(IMAGES.float(), 1)
    line = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    assert agf_fx.compile(line, method=method, options=EACH[method])(torch.rand(2, 2, 20), 1).shape == (2, 20)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("meaningful-perturbation", {"steps": 0}),
        ("meaningful-perturbation", {"sigma": 3.0, "baseline": 0.0}),
        ("meaningful-perturbation", {"beta": 0.5}),
        ("meaningful-perturbation", {"jitter": -1}),
        ("meaningful-perturbation", {"start": 2}),
        ("extremal-perturbation", {"areas": ()}),
        ("extremal-perturbation", {"areas": 1.0}),
        ("extremal-perturbation", {"growth": 0.9}),
        ("extremal-perturbation", {"levels": 0}),
    ],
)
def test_options_without_meaning(method, options):
    with pytest.raises(OptionsError, match=next(iter(options))):
        agf_fx.compile(vgg(), method=method, options=options)
