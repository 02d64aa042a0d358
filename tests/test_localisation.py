"""Measures of class-specificity on maps whose answer is known."""

import pytest
import torch

from agf_fx.errors import InputError
from agf_fx.evaluate.localisation import localisation


def masks() -> torch.Tensor:
    """Two images with an object of 2 pixels on the left, and one of 2 pixels on the right."""
    found = torch.zeros(2, 2, 2, 4, dtype=torch.bool)
    found[:, 0, :, 0] = found[:, 1, :, 3] = True
    return found


def test_all_on_the_own_object():
    found = localisation(masks().double(), masks())
    assert (found.count, found.own_wins, found.own_share, found.peak_on_own) == (4, 1.0, 1.0, 1.0)


def test_all_on_the_other_object():
    found = localisation(masks().flip(1).double(), masks())
    assert (found.own_wins, found.own_share, found.peak_on_own) == (0.0, 0.0, 0.0)


def test_shares_and_negative_relevance():
    maps = 3.0 * masks() + masks().flip(1)
    maps[:, :, 0, 1] = -9.0  # neither object's, and negative
    maps[0, 0, :, 3] = -5.0  # negative relevance on the other object counts as none
    found = localisation(maps, masks())
    assert found.own_wins == 1.0
    assert found.own_share == pytest.approx((1.0 + 3 * 0.75) / 4)
    assert found.peak_on_own == 1.0


def test_no_positive_relevance_is_no_preference():
    found = localisation(-masks().double(), masks())
    assert (found.own_wins, found.own_share) == (0.0, 0.5)


def test_a_peak_elsewhere():
    maps = masks().double()
    maps[:, :, 0, 2] = 5.0
    assert localisation(maps, masks()).peak_on_own == 0.0


@pytest.mark.parametrize("shape", [(2, 2, 2, 3), (2, 3, 2, 4), (0, 2, 2, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"must both be \(N, 2, H, W\)"):
        localisation(torch.zeros(shape), masks())
