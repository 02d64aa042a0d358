import torch
from networks import basic_resnet
from torch import nn

import agf_fx
from agf_fx.ir.facts import facts
from agf_fx.passes.heads import mark_heads
from agf_fx.passes.residual_merges import mark_residual_merges


def merges(model, shape):
    canonical = agf_fx.capture(model, torch.zeros(1, *shape, dtype=next(model.parameters()).dtype))
    canonical = mark_residual_merges(mark_heads(canonical))
    return {node.name: facts(node).residual_merge for node in canonical.calls if facts(node).residual_merge}


def test_the_branches_of_a_block_part_at_its_input():
    assert merges(basic_resnet(), (3, 32, 32)) == {
        "layer1_0_add": "maxpool_getitem",
        "layer2_0_add": "layer1_0_relu_relu_1",
        "layer3_0_add": "layer2_0_relu_relu_1",
        "layer4_0_add": "layer3_0_relu_relu_1",
    }


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(2, 1, 1))
        self.fc = nn.Linear(128, 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        inner = torch.relu(self.b(x))
        inner = inner + self.c(inner)
        return self.fc(((x + inner) + self.bias).flatten(1))


def test_nested_regions_and_constants():
    assert merges(Nested().eval(), (2, 8, 8)) == {"add": "relu_1", "add_1": "relu"}
