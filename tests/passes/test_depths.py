"""Depths of calls, and rules by them."""

from __future__ import annotations

import pytest
import torch
from networks import basic_resnet
from torch import nn

import agf_fx
from agf_fx.errors import OptionsError
from agf_fx.ir.facts import facts
from agf_fx.ir.vocabulary import is_parametrised
from agf_fx.methods.lrp import between_layers, linear_layer, relevance_method
from agf_fx.methods.table import RuleTable, depth
from agf_fx.passes.depths import mark_depths
from agf_fx.rules import lrp


class Branches(nn.Module):
    """Two ways of unequal length, and layers behind their sum."""

    def __init__(self):
        super().__init__()
        self.first, self.short = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.long = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.first(torch.sin(x)))
        return self.last((self.short(x) + self.long(x)).mean((2, 3)))


def depths(model, images):
    canonical = mark_depths(agf_fx.capture(model.eval(), images))
    return {node: facts(node).depth for node in canonical.calls}


def test_depths_follow_the_longest_way():
    found = depths(Branches(), torch.zeros(1, 2, 6, 6))
    by_module = {node.meta["module"]: value for node, value in found.items() if node.meta["module"]}
    expected = {"first": 0, "short": 1 / 3, "long.0": 1 / 3, "long.1": 1 / 3, "long.2": 2 / 3, "last": 1}
    assert by_module == expected
    others = [value for node, value in found.items() if not node.meta["module"]]
    assert others == [0, 0, 2 / 3, 2 / 3]  # sine, ReLU, sum and mean


def test_a_single_layer_is_the_first():
    found = depths(nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), torch.zeros(1, 2, 2, 2))
    assert {*found.values()} == {0.0}


def test_a_composite_by_depth_gives_what_one_by_names_does():
    model, images = basic_resnet(), torch.randn(2, 3, 32, 32).double()
    between = between_layers(lrp.norm())
    split = RuleTable.of([(linear_layer & depth(0, 0.5), lrp.z_plus()), (linear_layer, lrp.epsilon_rule())]) + between
    method = relevance_method("split", split)
    found = agf_fx.compile(model, method=method)
    maps = found(images, 1)
    whole = [agf_fx.compile(model, method=name)(images, 1) for name in ("lrp-zplus", "lrp-epsilon")]
    assert all((maps - one).abs().max() > 1e-3 * one.abs().max() for one in whole)
    rules = {
        facts(node).depth: next(str(rule) for where, rule in split if where(node))
        for node in found.graph.canonical.calls
        if is_parametrised(node)
    }
    assert len(rules) > 3
    assert all(rule.startswith("z_plus" if at < 0.5 else "epsilon") for at, rule in rules.items())
    everything = RuleTable.of([(linear_layer & depth(0), lrp.epsilon_rule())]) + between
    same = agf_fx.compile(model, method=relevance_method("everything", everything))(images, 1)
    other = RuleTable.of([(linear_layer, lrp.epsilon_rule())]) + between
    assert torch.equal(same, agf_fx.compile(model, method=relevance_method("other", other))(images, 1))


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (-0.1, 1), (0, 1.5), ("a", 1)])
def test_depths_that_are_none(bounds):
    with pytest.raises(OptionsError, match="give a"):
        depth(*bounds)


def test_the_text_of_a_condition():
    assert str(depth(0, 0.25) & linear_layer) == "depth 0 to 0.25 and convolution or linear"
