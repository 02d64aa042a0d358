"""Graphs that run in another dtype than their model was captured in."""

import networks
import pytest
import torch
from optimising import handmade, lines
from torch import nn

import agf_fx
from agf_fx.passes.conversions import convert_dtypes

aten = torch.ops.aten
IMAGES = torch.randn(2, 3, 7, 6, generator=torch.Generator().manual_seed(0))


def test_before_and_after():
    explanation = handmade(
        "images target w",
        ("a", aten.to.dtype, "images", torch.float32),
        ("b", aten.to.dtype, "a", torch.int64),
    )
    assert lines(convert_dtypes(explanation, torch.float64).graph) == [
        "%a = to.dtype(%images, torch.float64)",
        "%b = to.dtype(%a, torch.int64)",
    ]


class Mixed(nn.Module):
    """Logits beside a constant of another dtype, and a mean that is taken in it."""

    def __init__(self, other):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.other = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 3), other

    def forward(self, x):
        features = torch.relu(self.conv(x)).to(self.other).mean((2, 3)).to(x.dtype)
        joined = torch.cat([self.fc(features), torch.zeros(x.shape[0], 1, dtype=self.other)], 1)
        return joined * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=self.other)


@pytest.mark.parametrize("method", ["agf", "gradient_x_input"])
@pytest.mark.parametrize("own", [torch.float32, torch.float64])
def test_parts_in_another_dtype_have_the_maps_of_a_network_in_one(own, method, tmp_path):
    other = torch.float64 if own == torch.float32 else torch.float32
    whole = agf_fx.compile(Mixed(torch.float64).double().eval(), method=method).explain(IMAGES.double(), 1)
    explainer = agf_fx.compile(Mixed(other).to(own).eval(), method=method)
    found = explainer.explain(IMAGES.to(own), 1, check=True)
    assert found.maps.dtype == own
    assert float(found.precision.max()) < 1e-5
    torch.testing.assert_close(found.maps.double(), whole.maps, rtol=1e-4, atol=1e-5)
    for precision in ("float32", "float64"):
        explainer = agf_fx.compile(Mixed(other).to(own).eval(), method=method, precision=precision)
        found = explainer.explain(IMAGES.to(own), 1)
        whole_numbers = own == torch.float32 and precision == "float64"  # else a part is or was in single precision
        close = {"rtol": 1e-12, "atol": 1e-12} if whole_numbers else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(found.maps.double(), whole.maps, **close)
        assert found.maps.dtype == getattr(torch, precision)
        explainer.export(tmp_path / "explainer.pt")
        images = IMAGES.to(found.maps.dtype)
        torch.testing.assert_close(agf_fx.load(tmp_path / "explainer.pt").explain(images, 1).maps, found.maps)


def test_graphs_in_the_dtype_of_their_model_are_left_alone():
    explainer = agf_fx.compile(networks.small_vgg().eval(), torch.zeros(1, 3, 32, 32).double())
    assert not [node for node in explainer.graph.graph.nodes if torch.float32 in node.args]
