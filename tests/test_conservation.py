"""The sum of relevance from the heads to the images."""

from __future__ import annotations

import functools

import pytest
import torch
from classifiers import SMALL
from networks import _lively, basic_resnet
from torch import Tensor, nn

import agf_fx
import agf_fx.errors
from agf_fx.rules import numerics
from agf_fx.rules.numerics import dividing, settled

EXACT = agf_fx.AGFOptions(division="exact")
FAMILIES = (
    "resnet, basic",
    "densenet",
    "googlenet",
    "mobilenetv2",
    "mobilenetv3",
    "efficientnet",
    "regnet, y",
    "shufflenetv2",
    "convnext",
)


def classifier(name: str) -> nn.Module:
    """A small member of a family with lively statistics and logits a few units apart, for 10 classes, float64."""
    torch.manual_seed(0)
    model = _lively(SMALL[name][0]())
    *_, head = (module for module in model.modules() if isinstance(module, nn.Linear))
    nn.init.normal_(head.weight, 0, 0.5)
    return model


def images_of(name: str) -> Tensor:
    return torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_relevance_is_conserved_with_exact_division(name):
    explainer = agf_fx.compile(classifier(name), options=EXACT)
    report = explainer.conservation(images_of(name), [[0, 1], [2, 3]])
    assert report.initial.abs().min() > 0
    assert (report.ratio - 1).abs().max() < 1e-6
    for flow in report.flows:
        assert flow.promise in ("starts", "conserves", "shifts to conserve", "conserves but for constants")


@functools.cache
def report(division: str) -> agf_fx.ConservationReport:
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    explainer = agf_fx.compile(basic_resnet(), options=agf_fx.AGFOptions(division=division))
    return explainer.conservation(images, [[0, 1], [2, 3]])


def test_every_call_keeps_its_promise():
    for flow in report("exact").flows:
        torch.testing.assert_close(flow.handed_on, flow.received, rtol=1e-9, atol=1e-12)


def test_the_published_division_drifts_and_the_report_says_where():
    published = report("reference")
    drift = published.final - published.initial
    assert 1e-9 < drift.abs().max() < 1e-2
    changes = sum(flow.change for flow in published.flows)
    torch.testing.assert_close(changes, drift, rtol=1e-6, atol=1e-12)  # nothing is lost between the calls
    assert {flow.promise for flow in published.flows} >= {"may lose by masking", "conserves but for 1e-9"}


def test_initial_relevance_is_that_of_the_maps():
    shapes = {tuple(flow.change.shape) for flow in report("exact").flows}
    assert shapes == {(2, 2)}
    assert report("exact").initial.shape == report("exact").final.shape == (2, 2)


def test_the_largest_changes_come_first():
    found = report("reference").largest_changes(3)
    sizes = [flow.change.abs().max() for flow in report("reference").flows]
    assert [flow.change.abs().max() for flow in found] == sorted(sizes, reverse=True)[:3]


def test_the_report_is_readable():
    text = str(report("exact"))
    assert "z_box of %conv1_conv2d = conv2d" in text
    assert len(text.splitlines()) == len(report("exact").flows) + 2


def test_a_method_without_relevance_is_refused():
    explainer = agf_fx.compile(basic_resnet(), method="gradient_x_input")
    with pytest.raises(agf_fx.errors.OptionsError, match="no relevance"):
        explainer.conservation(torch.randn(1, 3, 32, 32, dtype=torch.float64), 0)


def test_relevance_at_zeros_is_spread_over_the_rest_of_its_sample():
    phi = torch.tensor([[[1.0, 2.0, 4.0], [3.0, 5.0, 1.0]]])  # one target, two samples
    b = torch.tensor([[0.0, 1.0, -2.0], [0.0, 0.0, 0.0]])
    assert torch.equal(settled(phi, b, [-1]), phi)
    with dividing(numerics.EXACT):
        assert torch.equal(settled(phi, b, [-1]), torch.tensor([[[0.0, 2.5, 4.5], [0.0, 0.0, 0.0]]]))


def test_an_operation_explained_by_its_gradient_promises_nothing():
    import torchvision

    class Deformed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 18, 3, padding=1), nn.Linear(4, 3)
            self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))

        def forward(self, x):
            y = torchvision.ops.deform_conv2d(x * 1.0, torch.zeros_like(self.conv(x)), self.kernel, padding=1)
            return self.fc(torch.relu(y).mean((2, 3)))

    torch.manual_seed(0)
    explainer, images = agf_fx.compile(Deformed().double().eval(), unknown_ops="gradient"), torch.randn(1, 3, 6, 6)
    with pytest.warns(UserWarning, match="explained by its gradient"):
        report = explainer.conservation(images.double(), 1)
    promises = {flow.op: flow.promise for flow in report.flows}
    assert [promise for op, promise in promises.items() if "deform" in op] == ["none: explained by its gradient"]


def test_a_blank_modality_keeps_its_relevance():
    class TwoModalities(nn.Module):
        def __init__(self):
            super().__init__()
            self.colour, self.depth, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 3), nn.Linear(8, 3)

        def forward(self, x):
            both = [torch.relu(self.colour(x[:, :3])), torch.relu(self.depth(x[:, 3:]))]
            return self.fc(torch.cat(both, 1).mean((2, 3)))

    torch.manual_seed(0)
    images = torch.randn(1, 4, 6, 7).double()
    images[:, 3] = 0.5
    explainer = agf_fx.compile(TwoModalities().double().eval(), options=agf_fx.AGFOptions(division="exact"))
    report = explainer.conservation(images, [[0, 1, 2]])
    torch.testing.assert_close(report.final, report.initial, rtol=1e-9, atol=1e-12)


MASK = torch.ones(8, 9, dtype=torch.float64)
MASK[:, :4] = 0


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.mask = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), (mask,)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(self.mask[0](x))).mean((2, 3)))


@pytest.mark.parametrize(
    "mask",
    [
        lambda x: x * MASK,
        lambda x: MASK.bool() * x,
        lambda x: x.masked_fill(MASK == 0, 0),
        lambda x: torch.where(MASK > 0, x, 0),
    ],
)
def test_pixels_behind_a_mask_get_nothing(mask):
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    explainer = agf_fx.compile(Masked(mask).double().eval())
    maps = explainer(x, 1)
    assert not maps[..., :4].any()
    torch.testing.assert_close(maps, agf_fx.compile(Masked(lambda x: x * MASK).double().eval())(x, 1))
    assert "conserves but for constants" in {flow.promise for flow in explainer.conservation(x, 1).flows}
