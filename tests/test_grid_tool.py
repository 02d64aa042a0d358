"""The measure of grids in maps, on maps and kernels whose grid is known."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

from grid import grid, kernel_grid, uniform_row


@pytest.mark.parametrize("period", [2, 4, 8])
def test_a_grid_is_found_at_its_own_period(period):
    cells = torch.ones(3, 16, 16)
    cells[:, ::2, ::2] = -5
    maps = cells.repeat_interleave(period // 2, 1).repeat_interleave(period // 2, 2)
    assert grid(maps, period) == pytest.approx(5)
    assert grid(maps, 2 * period) == pytest.approx(1)
    assert grid(torch.ones(3, 64, 64), period) == pytest.approx(1)


@pytest.mark.parametrize(("kernel", "expected"), [(3, 4), (5, 9 / 4), (7, 16 / 9)])
def test_coverage_of_uniform_kernels(kernel, expected):
    layer = nn.Conv2d(2, 3, kernel, stride=2)
    nn.init.constant_(layer.weight, -0.5)
    assert kernel_grid(layer) == pytest.approx(expected)
    assert uniform_row(kernel).count(f"{expected:.2f}") == 2
