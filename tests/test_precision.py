"""How far maps are from float64's, measured at the call."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

import agf_fx
from agf_fx.inspect.precision import relative_difference
from agf_fx.models.digits import digits_basic
from agf_fx.runtime.precision import PrecisionWarning


@pytest.fixture(scope="module")
def badly_conditioned():
    """Basic blocks with random weights, and noise on which their sums come close to zero."""
    torch.manual_seed(0)
    return digits_basic().eval(), torch.randn(3, 3, 19, 23)


def test_relative_difference_is_of_each_map_and_knows_zero_and_nan():
    exact = torch.tensor([[1.0, -4.0], [0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.0]]).reshape(5, 1, 1, 2)
    maps = torch.tensor([[1.5, -4.0], [0.0, 0.0], [0.0, 1.0], [math.nan, 2.0], [1.0, 2.0]]).reshape(5, 1, 1, 2)
    assert relative_difference(maps, exact).flatten().tolist() == [0.125, 0.0, math.inf, math.inf, 0.0]


def test_check_measures_each_map_against_float64(badly_conditioned):
    model, images = badly_conditioned
    explainer = agf_fx.compile(model, options=agf_fx.AGFOptions(merge="z"))
    target = torch.tensor([[0, 1], [2, 3], [4, 0]])
    exact = agf_fx.compile(model, options=agf_fx.AGFOptions(merge="z"), precision="float64")(images, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        result = explainer.explain(images, target, check=True)
    assert result.precision.shape == (3, 2)
    expected = (result.maps.double() - exact).abs().amax((2, 3)) / exact.abs().amax((2, 3))
    torch.testing.assert_close(result.precision, expected)
    assert (result.precision > 0).all()


def test_without_check_nothing_is_measured(badly_conditioned):
    model, images = badly_conditioned
    explainer = agf_fx.compile(model)
    assert explainer.explain(images, 1).precision is None
    assert explainer._twin is None


def test_check_compares_the_classes_that_were_explained(badly_conditioned):
    model, images = badly_conditioned
    result = agf_fx.compile(model, options=agf_fx.AGFOptions(merge="ratio")).explain(images, top_k=2, check=True)
    assert result.precision.shape == (3, 2)
    assert result.precision.max() < 1e-3


def test_a_badly_conditioned_map_warns_and_says_what_to_do(badly_conditioned, monkeypatch):
    model, images = badly_conditioned
    monkeypatch.setattr("agf_fx.runtime.precision.TRUSTED", 1e-12)
    with pytest.warns(PrecisionWarning, match=r'images \[0, 1, 2\].*precision="float64"\.$'):
        agf_fx.compile(model).explain(images, 1, check=True)


@pytest.mark.parametrize(
    ("method", "options", "advice"),
    [
        ("agf", {"merge": "z"}, r'AGFOptions\(merge="auto"\)'),
        ("lrp-epsilon", None, "a larger epsilon"),
        ("lrp-0", None, 'method="lrp-epsilon"'),
    ],
)
def test_the_advice_is_the_methods_own(badly_conditioned, monkeypatch, method, options, advice):
    model, images = badly_conditioned
    monkeypatch.setattr("agf_fx.runtime.precision.TRUSTED", 1e-12)
    with pytest.warns(PrecisionWarning, match=f'precision="float64"; if many of them are, {advice}'):
        agf_fx.compile(model, method=method, options=options).explain(images, 1, check=True)


def test_check_follows_a_bound_model_and_edited_weights(badly_conditioned):
    model, images = badly_conditioned
    explainer = agf_fx.compile(model, options=agf_fx.AGFOptions(merge="ratio"))
    explainer.explain(images, 1, check=True)
    torch.manual_seed(1)
    other = digits_basic().eval()
    assert explainer.bind(other).explain(images, 1, check=True).precision.max() < 1e-3
    with torch.no_grad():
        other.fc.weight.mul_(torch.randn_like(other.fc.weight))
    assert explainer.explain(images, 1, check=True).precision.max() < 1e-3


def test_dense_outputs_are_checked_at_their_positions():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 3)).eval()
    images = torch.randn(2, 3, 9, 8)
    target = torch.tensor([[[1, 0, 0], [2, 3, 2]], [[0, 4, 1], [1, 2, 2]]])
    assert agf_fx.compile(model).explain(images, target, check=True).precision.max() < 1e-4
