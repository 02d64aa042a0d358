import pytest
import torch
from torch import nn

import agf_fx
from agf_fx.errors import CaptureError
from agf_fx.ir.facts import facts
from agf_fx.passes.heads import check_heads, mark_heads

IMAGES = torch.zeros(1, 3, 8, 8)


def marked(model, fact):
    canonical = mark_heads(agf_fx.capture(model.eval(), IMAGES))
    return [node.name for node in canonical.graph.nodes if getattr(facts(node), fact)]


def test_the_last_linear_layer_is_the_head():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))
    assert marked(model, "head") == ["_3_linear"]
    assert marked(model, "tail") == []


def test_a_convolution_with_a_tail():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 5, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Softmax(1),
    )
    assert marked(model, "head") == ["_2_conv2d"]
    assert marked(model, "tail") == ["_3_relu", "_4_adaptive_avg_pool2d", "_5_reshape"]  # the softmax is left out


class TwoHeads(nn.Module):
    def __init__(self, mixed=False):
        super().__init__()
        self.body, self.a, self.b = nn.Linear(192, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.mixed = mixed

    def forward(self, x):
        x = torch.relu(self.body(x.flatten(1)))
        return self.a(x) + (x if self.mixed else self.b(x))


def test_parallel_heads():
    assert marked(TwoHeads(), "head") == ["a_linear", "b_linear"]


def test_logits_that_mix_depths_have_no_head_and_are_refused_where_one_is_needed():
    canonical = mark_heads(agf_fx.capture(TwoHeads(mixed=True).eval(), IMAGES))
    assert not [node for node in canonical.calls if facts(node).head or facts(node).tail]
    with pytest.raises(CaptureError, match="several depths"):
        check_heads(canonical)


def test_a_network_without_layers_has_no_head():
    canonical = mark_heads(agf_fx.capture(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGES))
    with pytest.raises(CaptureError, match="no convolution or linear layer"):
        check_heads(canonical)


class Binary(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.sign(self.conv(x)).mean((2, 3)))


def test_logits_without_a_derivative_are_refused():
    with pytest.raises(CaptureError, match="steps alone"):
        marked(Binary(), "head")
