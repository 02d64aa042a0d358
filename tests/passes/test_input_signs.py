import pytest
import torch
from emission import weights
from networks import small_vgg
from torch import fx, nn

import agf_fx
from agf_fx.emit import interpret
from agf_fx.ir.facts import facts, mark
from agf_fx.ir.signs import nonnegative
from agf_fx.methods import REGISTRY
from agf_fx.passes.input_signs import mark_nonnegative_inputs
from agf_fx.pipeline import analyse

aten = torch.ops.aten


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


class Between(nn.Module):
    """Convolutions, and between them a ReLU and what may turn its sign."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)
        self.function = (function,)

    def forward(self, x):
        return self.fc(torch.relu(self.b(self.function[0](torch.relu(self.a(x))))).mean((2, 3)))


@pytest.mark.parametrize(
    ("function", "nonnegative"),
    [
        (lambda x: nn.functional.avg_pool2d(x, 2), True),
        (lambda x: nn.functional.avg_pool2d(x, 2, divisor_override=3), True),
        (lambda x: nn.functional.avg_pool2d(x, 2, divisor_override=-3), False),
        (lambda x: torch.clamp(x, 0.0, 2.0), True),
        (lambda x: torch.clamp(x, 0.0, -1.0), False),
        (lambda x: torch.add(x, torch.relu(-x), alpha=-2), False),
        (lambda x: nn.functional.pad(x, (1, 1), value=-1.0), False),
    ],
)
def test_numbers_that_turn_the_sign(function, nonnegative):
    canonical = mark_nonnegative_inputs(agf_fx.capture(Between(function).eval(), torch.zeros(1, 2, 12, 12)))
    (layer,) = [node for node in canonical.calls if node.meta["module"] == "b" and facts(node) is not None]
    assert facts(layer).nonnegative_input == nonnegative


def test_numbers_by_keyword_may_turn_the_sign():
    graph = fx.Graph()
    x = graph.call_function(aten.relu.default, (graph.placeholder("x"),))
    plain = graph.call_function(aten.add.Tensor, (x, x))
    turned = graph.call_function(aten.add.Tensor, (x, x), {"alpha": -2})
    assert nonnegative(graph.nodes) == {x, plain}
    assert turned not in nonnegative(graph.nodes)


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
