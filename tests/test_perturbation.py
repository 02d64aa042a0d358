"""Occlusion and RISE: against Captum, against the definition, and what is no such option."""

from __future__ import annotations

import captum.attr
import networks
import pytest
import torch
from torch import nn

import agf_fx
from agf_fx.errors import ExportError, OptionsError
from agf_fx.methods.perturbation import RISEOptions, random_mask

IMAGES = torch.randn(2, 3, 16, 13, generator=torch.Generator().manual_seed(0)).double()
TARGETS = torch.tensor([[0, 1], [2, 3]])


def model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(24, 5)).double().eval()


def close(found, expected):
    assert found.shape == expected.shape
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("window", "stride", "baseline"),
    [
        (4, 2, 0.0),
        (5, 3, 0.5),  # windows that are cut off at the border
        ((6, 3), (4, 3), -1.0),
        (4, 4, IMAGES[:1].flip(2)),
        ((16, 13), (1, 1), 0.0),  # everything at once
    ],
)
def test_occlusion_is_captums(window, stride, baseline):
    net = model()
    options = {"window": window, "stride": stride, "baseline": baseline}
    options |= {"baseline": baseline[0]} if isinstance(baseline, torch.Tensor) else {}
    found = agf_fx.compile(net, method="occlusion", options=options)(IMAGES, TARGETS)
    sides, steps = ((value, value) if isinstance(value, int) else value for value in (window, stride))
    for column in range(2):
        expected = captum.attr.Occlusion(net).attribute(
            IMAGES, (3, *sides), (3, *steps), baselines=baseline, target=TARGETS[:, column]
        )
        close(found[:, column], expected[:, 0].detach().double())  # the same for every channel


def test_what_all_windows_share_does_not_count():
    options = {"window": (5, 4), "stride": (2, 3)}
    network = model()
    before = agf_fx.compile(network, method="occlusion", options=options)(IMAGES, 1)
    with torch.no_grad():
        network[-1].bias[1] += 1e4
    after = agf_fx.compile(network, method="occlusion", options=options)(IMAGES, 1)
    assert (after - before).abs().max() <= 1e-9 * before.abs().max()


def test_windows_without_options_fit_the_images():
    by_itself = agf_fx.compile(model(), method="occlusion")(IMAGES, 1)
    close(by_itself, agf_fx.compile(model(), method="occlusion", options={"window": (2, 1), "stride": 1})(IMAGES, 1))


def test_rise_is_its_definition():
    net, options = model(), {"samples": 30, "cells": 4, "probability": 0.3, "seed": 3, "baseline": 0.25}
    found = agf_fx.compile(net, method="rise", options=options)(IMAGES, TARGETS)
    masks = torch.stack([random_mask(index, RISEOptions(**options), (16, 13)) for index in range(30)]).double()
    expected = torch.zeros(2, 2, 16, 13).double()
    with torch.no_grad():
        for mask in masks:
            p = net(IMAGES * mask + 0.25 * (1 - mask)).softmax(1).gather(1, TARGETS)
            expected += p[:, :, None, None] * mask / (30 * 0.3)
    close(found, expected)
    other = agf_fx.compile(net, method="rise", options=options | {"seed": 4})(IMAGES, TARGETS)
    assert not torch.allclose(found, other)


def test_masks_are_cells_seen_with_a_probability_enlarged_and_moved():
    options = RISEOptions(samples=400, cells=4, probability=0.3)
    masks = torch.stack([random_mask(index, options, (12, 10)) for index in range(400)])
    assert masks.shape == (400, 12, 10)
    assert masks.min() == 0
    assert 0.999 < masks.max() <= 1 + 1e-6
    assert abs(float(masks.mean()) - 0.3) < 0.02
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 390
    assert masks.diff(dim=1).abs().max() < 0.5  # from one cell to the next in several pixels


@pytest.mark.parametrize(("rank", "shape"), [(1, (20,)), (3, (6, 6, 5))])
@pytest.mark.parametrize("name", ["occlusion", "rise"])
def test_images_of_other_dimensions(name, rank, shape):
    convolution, pool = {1: (nn.Conv1d, nn.AdaptiveAvgPool1d), 3: (nn.Conv3d, nn.AdaptiveAvgPool3d)}[rank]
    net = nn.Sequential(convolution(2, 4, 3), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(4, 3)).double().eval()
    images = torch.randn(2, 2, *shape).double()
    options = {"samples": 20} if name == "rise" else {"window": 3, "stride": 2}
    found = agf_fx.compile(net, method=name, options=options)(images, [[0, 1], [1, 2]])
    assert found.shape == (2, 2, *shape)
    assert found.flatten(2).std(2).min() > 0


def test_places_of_a_dense_output_have_their_own_score():
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).double().eval()
    images, place = IMAGES[..., :6, :6], [[[2, 1, 1]], [[2, 1, 1]]]  # class, row, column
    options = {"window": 2, "stride": 2}
    found = agf_fx.compile(dense, method="occlusion", options=options)(images, place)
    with torch.no_grad():
        whole = dense(images)[:, 2, 1, 1]
        for row, column in ((0, 0), (0, 2), (4, 4)):
            hidden = images.clone()
            hidden[:, :, row : row + 2, column : column + 2] = 0
            expected = whole - dense(hidden)[:, 2, 1, 1]
            torch.testing.assert_close(found[:, 0, row, column], expected, rtol=1e-9, atol=1e-12)
    assert (found[..., 4:, 4:] == 0).all()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("occlusion", {"window": 0}, "window is 0; give a whole number of 1 or more"),
        ("occlusion", {"window": 17}, "window is 17 for images of (16, 13)"),
        ("occlusion", {"window": (2, 2, 2)}, "for images of 2 dimensions; give a number for each"),
        ("occlusion", {"window": 3, "stride": 4}, "stride is 4 for a window of 3, and leaves pixels out"),
        ("rise", {"probability": 1.0}, "give a number below 1"),
        ("rise", {"probability": 0}, "give a number above 0"),
        ("rise", {"cells": 1.5}, "cells is 1.5; give a whole number"),
        ("rise", {"baseline": IMAGES}, "compares with one"),
    ],
)
def test_what_is_no_option(method, options, message):
    with pytest.raises(OptionsError) as error:
        agf_fx.compile(model(), method=method, options=options)(IMAGES, 1)
    assert message in str(error.value)


def test_windows_from_words():
    entry = agf_fx.methods.REGISTRY["occlusion"]
    assert entry.parsed(["window=4"]).window == 4
    assert entry.parsed(["window=4,6", "stride=2,3"]).window == (4, 6)


@pytest.mark.parametrize("name", ["occlusion", "rise"])
def test_no_file_holds_them(name, tmp_path):
    images, options = torch.zeros(1, 3, 16, 16).double(), {"samples": 5} if name == "rise" else None
    explainer = agf_fx.compile(networks.small_vgg().eval(), images, method=name, options=options)
    with pytest.raises(ExportError, match=f"{name} .* which no file holds"):
        explainer.export(tmp_path / "explainer.pt")


def test_layers_and_relevance_have_nothing_to_say():
    explainer = agf_fx.compile(model(), method="occlusion", options={"window": 8})
    with pytest.raises(OptionsError, match="looks at many points"):
        explainer.explain(IMAGES, 1, layers=["0"])
    with pytest.raises(OptionsError, match="relevance"):
        explainer.conservation(IMAGES, 1)
