import pytest
import torch
from emission import weights
from networks import small_vgg
from torch import nn

import agf_fx
from agf_fx.emit import interpret
from agf_fx.ir.facts import facts, mark
from agf_fx.methods import REGISTRY
from agf_fx.passes.input_signs import mark_nonnegative_inputs
from agf_fx.pipeline import analyse


class Signs(nn.Module):
    """Layers behind the images, a ReLU, a pooling and a concatenation of ReLUs, a SiLU, and a sum."""

    def __init__(self):
        super().__init__()
        self.image, self.relu, self.pooled = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(8, 4, 3)
        self.silu, self.fc, self.last = nn.Conv2d(4, 4, 1), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.image(x))
        y = torch.relu(self.relu(x))
        z = self.pooled(nn.functional.max_pool2d(torch.cat([y, x[:, :, 1:-1, 1:-1]], 1), 2))
        z = self.silu(nn.functional.silu(z)) + z
        return self.last(nn.functional.relu6(self.fc(z.mean((2, 3)))))


def test_signs_of_inputs_are_found_by_dataflow():
    canonical = mark_nonnegative_inputs(agf_fx.capture(Signs().eval(), torch.zeros(1, 2, 12, 12)))
    found = {node.meta["module"] for node in canonical.calls if facts(node).nonnegative_input}
    assert found == {"relu", "pooled", "last"}


@pytest.mark.parametrize("name", ["lrp-zplus", "epsilon-alpha2-beta1", "lrp-gamma", "lrp-alphabeta", "rap"])
def test_what_is_left_out_is_zero(name):
    model, images = small_vgg().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    method, targets = REGISTRY[name].make(REGISTRY[name].options()), torch.tensor([[0, 1], [2, 3]])

    def maps(marked):
        canonical = analyse(agf_fx.capture(model, images))
        layers = [node for node in canonical.calls if facts(node).nonnegative_input]
        assert len(layers) >= 5
        for node in layers:
            mark(node, nonnegative_input=marked)
        for canonise in method.canonisers:
            canonical = canonise(canonical)
        with torch.no_grad():
            return interpret(canonical, method, images, targets, weights(canonical, model)).maps

    assert torch.equal(maps(True), maps(False))
