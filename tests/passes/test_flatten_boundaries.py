import pytest
import torch
from torch import nn

import agf_fx
from agf_fx.ir.facts import FlattenBoundary, facts
from agf_fx.passes.flatten_boundaries import mark_flatten_boundaries


class Permute(nn.Module):
    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(*self.order)


@pytest.mark.parametrize(
    ("between", "features", "boundary"),
    [
        ([nn.Flatten()], 144, FlattenBoundary((4, 6, 6), 1)),
        ([nn.MaxPool2d(3), nn.Flatten(), nn.Dropout()], 16, FlattenBoundary((4, 2, 2), 1)),
        ([Permute(0, 2, 3, 1), nn.Flatten()], 144, FlattenBoundary((6, 6, 4), 3)),
        ([nn.BatchNorm2d(4), nn.Flatten()], 144, FlattenBoundary((4, 6, 6), 1)),
        ([nn.Flatten(), nn.ReLU()], 144, None),
    ],
)
def test_a_linear_layer_behind_a_reshaped_feature_map(between, features, boundary):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *between, nn.Linear(features, 8), nn.Linear(8, 3)).eval()
    canonical = mark_flatten_boundaries(agf_fx.capture(model, torch.zeros(1, 3, 8, 8)))
    found = [facts(node).flatten_boundary for node in canonical.calls if facts(node).flatten_boundary]
    assert found == ([boundary] if boundary else [])
