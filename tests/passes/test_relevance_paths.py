import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import agf_fx
from agf_fx.errors import UnsupportedOpError
from agf_fx.passes.gates import mark_gates
from agf_fx.passes.heads import mark_heads
from agf_fx.passes.relevance_paths import check_relevance_everywhere, check_relevance_paths


class Block(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Net(nn.Module):
    def __init__(self, function, behind=None):
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, 4, 1), Block(function), nn.Linear(4, 3)
        self.behind = behind or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.behind(self.fc(self.block(self.stem(images)).mean((2, 3))))


def check(*args):
    canonical = agf_fx.capture(Net(*args).eval(), torch.zeros(1, 3, 5, 5))
    return check_relevance_paths(mark_gates(mark_heads(canonical)))


def test_what_has_no_rule_is_refused_where_relevance_passes():
    with pytest.raises(UnsupportedOpError, match="only gradients pass through it") as refused:
        check(lambda x: F.log_softmax(x, 1))
    assert refused.value.op == "aten.log_softmax.int"
    assert refused.value.module_path == "block"
    assert __file__ in refused.value.source
    assert "in module 'block'" in str(refused.value)


def test_and_allowed_on_the_way_to_a_gate():
    check(lambda x: x * torch.sigmoid(F.log_softmax(x, 1)))


def test_and_below_a_denominator():
    check(lambda x: x / (1 + torch.relu(F.log_softmax(x, 1))))


def test_and_behind_the_head():
    check(torch.relu, nn.LogSoftmax(1))


def test_a_product_of_equals_does_not_shield():
    with pytest.raises(UnsupportedOpError, match="log_softmax"):
        check(lambda x: x.flip(1) * F.log_softmax(x, 1))


@pytest.mark.parametrize("method", ["agf", "lrp-epsilon"])
def test_the_compiler_refuses(method):
    with pytest.raises(UnsupportedOpError, match="log_softmax"):
        agf_fx.compile(Net(nn.LogSoftmax(1)).eval(), torch.zeros(1, 3, 5, 5), method=method)


def test_methods_without_relevance_do_not():
    agf_fx.compile(Net(nn.LogSoftmax(1)).eval(), torch.zeros(1, 3, 5, 5), method="gradient_x_input")


def test_relevance_that_starts_at_the_logits_passes_what_is_behind_the_head():
    canonical = agf_fx.capture(Net(torch.relu, lambda y: y * torch.log_softmax(y, 1)).eval(), torch.zeros(1, 3, 5, 5))
    check_relevance_paths(mark_gates(mark_heads(canonical)))
    with pytest.raises(UnsupportedOpError, match="log_softmax"):
        check_relevance_everywhere(mark_gates(mark_heads(canonical)))
