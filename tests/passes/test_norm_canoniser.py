"""Batch norms as part of the layer in front of them, in the canonical graph."""

import networks
import pytest
import torch
from torch import nn

import agf_fx
from agf_fx.frontend.running import trace_of
from agf_fx.ir.verify import verify_canonical
from agf_fx.passes.norm_canoniser import fold_norms

aten = torch.ops.aten
IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)).double()


def norms(canonical):
    return [node for node in canonical.calls if node.target is aten.batch_norm.default]


FOLDED = {
    "convolution": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "convolution without bias": (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)),
    "norm without weights": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)),
    "groups": (nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)),
    "transposed convolution": (nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)),
    "grouped transposed convolution": (nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)),
    "linear layer": (nn.Flatten(), nn.Linear(432, 6), nn.BatchNorm1d(6), nn.ReLU()),
}
STAYS = {
    "in front": (nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
    "behind a ReLU": (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
    "linear layer on positions": (nn.Flatten(2), nn.Linear(144, 5), nn.BatchNorm1d(3)),
}


def canonical_of(modules):
    images = IMAGES if not isinstance(modules[0], nn.ConvTranspose2d) or modules[0].in_channels == 3 else None
    images = IMAGES.repeat(1, 2, 1, 1)[:, :4] if images is None else images
    model = nn.Sequential(*modules, nn.Flatten(), nn.LazyLinear(4)).double()
    model(images)
    plain = any(isinstance(module, nn.BatchNorm2d) and not module.affine for module in modules)
    model = model.eval() if plain else networks._lively(model)
    return agf_fx.capture(model, images), model, images


@pytest.mark.parametrize("case", FOLDED)
def test_a_norm_behind_a_layer_is_folded_and_the_logits_stay(case):
    canonical, model, images = canonical_of(FOLDED[case])
    assert len(norms(canonical)) == 1
    folded = fold_norms(canonical)
    verify_canonical(folded)
    assert len(norms(canonical)) == 1  # the graph that it was made from is another one
    assert not norms(folded)
    found = trace_of(folded, model, images)[folded.logits]
    torch.testing.assert_close(found, model(images).detach(), rtol=1e-11, atol=1e-12)
    assert fold_norms(folded) is folded


@pytest.mark.parametrize("case", STAYS)
def test_other_norms_stay(case):
    canonical, *_ = canonical_of(STAYS[case])
    assert len(norms(canonical)) == 1
    assert fold_norms(canonical) is canonical


class Twice(nn.Module):
    """Something else reads the layer's output."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.conv(x)
        return self.fc((self.norm(x) + x).mean((2, 3)))


def test_a_norm_whose_layer_has_another_reader_stays():
    canonical = agf_fx.capture(networks._lively(Twice()), IMAGES)
    assert fold_norms(canonical) is canonical


def test_the_folded_layer_puts_out_what_the_norm_did():
    model = networks.small_vgg().eval()
    images = torch.randn(2, 3, 16, 16).double()
    result = agf_fx.compile(model, method="lrp-epsilon").explain(images, 1, layers=["features.1"], quantities=["value"])
    expected = model.features[1](model.features[0](images)).detach()
    torch.testing.assert_close(result.layers["features.1"], expected, rtol=1e-11, atol=1e-12)
