"""A program is looked at before it is trusted: chance, state, and what differs from the model are refused."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import agf_fx
from agf_fx.errors import CaptureError, InputError, TargetError, UnsupportedOpError
from agf_fx.frontend import capture as frontend
from agf_fx.frontend.final import FinalActivationWarning

F = nn.functional
aten = torch.ops.aten


class Net(nn.Module):
    """A small classifier behind ``before``, and ``behind`` it whatever a case asks for."""

    def __init__(self, before=lambda net, x: x, behind=lambda y: y):
        super().__init__()
        self.conv, self.side, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 3, 3, padding=1), nn.Linear(4, 3)
        self.register_buffer("count", torch.zeros(1))
        self.functions = (before, behind)

    def forward(self, x):
        f = torch.relu(self.conv(self.functions[0](self, x))).mean((2, 3))
        return self.functions[1](self.fc(f))


def net(*functions) -> Net:
    torch.manual_seed(0)
    return Net(*functions).double().eval()


def maps(*functions, **options) -> torch.Tensor:
    return agf_fx.compile(net(*functions), **options).explain(images(), 1).maps


def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 7, generator=torch.Generator().manual_seed(1)).double()


DRAWN = {
    "dropout": lambda net, x: F.dropout(x, 0.5, True),
    "dropout2d": lambda net, x: F.dropout2d(x, 0.5, True),
    "alpha dropout": lambda net, x: F.alpha_dropout(x, 0.5, True),
    "bernoulli": lambda net, x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    "uniform": lambda net, x: x * torch.empty_like(x).uniform_(),
    "noise": lambda net, x: x + torch.randn_like(x),
    "blocks": lambda net, x: torchvision.ops.drop_block2d(x, 0.5, 3, training=True),
    "rrelu": lambda net, x: F.rrelu(x, training=True),
    "attention": lambda net, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
}
KEPT = {
    "a tensor": lambda net, x: x * torch.rand(1),
    "a number": lambda net, x: x * torch.rand(()).item(),
    "a permutation": lambda net, x: x[:, torch.randperm(3)],
    "NumPy": lambda net, x: x * np.random.rand(),
    "Python": lambda net, x: x * random.random(),
}
EVALUATED = {
    "dropout": lambda net, x: F.dropout(x, 0.5, net.training),
    "a probability of 0": lambda net, x: F.dropout2d(x, 0.0, net.training),
}


@pytest.mark.parametrize("case", DRAWN)
def test_random_operations_are_refused(case):
    with pytest.raises(CaptureError, match=r"draws at random in evaluation mode \(aten\.(.|\n)*training=self.training"):
        maps(DRAWN[case])


def test_the_line_that_draws_is_named():
    with pytest.raises(CaptureError, match=r"test_trust\.py:\d+: \"dropout2d\""):
        maps(DRAWN["dropout2d"])


@pytest.mark.parametrize("case", KEPT)
def test_values_drawn_in_the_forward_pass_are_refused(case):
    with pytest.raises(CaptureError, match=r"gives other logits (for the same images when it is called again|than)"):
        maps(KEPT[case])


@pytest.mark.parametrize("case", EVALUATED)
def test_dropout_that_is_off_is_no_chance(case):
    assert torch.equal(maps(EVALUATED[case]), maps())


def test_random_numbers_of_the_caller_are_not_used_up():
    torch.manual_seed(5)
    expected = torch.rand(3)
    model = net()
    torch.manual_seed(5)
    agf_fx.compile(model, images(), compile_options=agf_fx.CompileOptions(cache="off"))
    assert torch.equal(torch.rand(3), expected)


def test_a_program_that_is_not_the_model_is_refused_and_the_module_named(monkeypatch):
    canonicalise = frontend.canonicalise

    def wrong(*arguments: Any) -> Any:
        canonical = canonicalise(*arguments)
        (layer,) = [node for node in canonical.calls if node.target is aten.conv2d.default]
        layer.args = (*layer.args[:3], [1, 1], [0, 0], [1, 1], 1)
        layer.replace_all_uses_with(layer, delete_user_cb=lambda user: False)
        weight, bias = layer.args[1:3]
        layer.args = (layer.args[0], weight, None, *layer.args[3:])
        bias.users or canonical.graph.erase_node(bias)
        canonical.signature.weights.pop(bias.name, None)
        return canonical

    monkeypatch.setattr(frontend, "canonicalise", wrong)
    with pytest.raises(
        CaptureError, match=r"gives other logits than the model itself \(they differ.*from module 'conv'"
    ):
        maps(compile_options=agf_fx.CompileOptions(cache="off"))


def test_a_known_architecture_is_not_looked_at_again(monkeypatch):
    calls = []
    monkeypatch.setattr(frontend, "check_program", lambda *arguments: calls.append(arguments))
    agf_fx.cache.clear() if hasattr(agf_fx.cache, "clear") else None
    torch.manual_seed(3)
    model = Net(behind=lambda y: y * 1.25).double().eval()
    for _ in range(2):
        agf_fx.compile(model, images())
    assert len(calls) <= 1


# What is written in place


def divided(net, x):
    x /= 2
    return x


def counted(net, x):
    net.count.add_(1)
    return x / 2


@pytest.mark.parametrize("before", [divided, counted, lambda net, x: x.div_(2)])
def test_writing_in_place_gives_the_map_of_the_twin_that_does_not(before):
    model, given = net(before), images()
    expected = maps(lambda net, x: x / 2)
    torch.testing.assert_close(agf_fx.compile(model).explain(given, 1).maps, expected, rtol=0, atol=1e-12)
    assert torch.equal(given, images())
    assert model.count == 0


@pytest.mark.parametrize(
    "before",
    [
        lambda net, x: F.batch_norm(x, None, None, training=True),
        lambda net, x: nn.BatchNorm2d(3, track_running_stats=False, dtype=torch.float64)(x),
    ],
)
def test_statistics_of_the_batch_are_refused(before):
    with pytest.raises(UnsupportedOpError, match="mean and variance of the batch"):
        maps(before)


# Gradients that are not the derivative


def in_no_grad(net, x):
    y = net.side(x)
    with torch.no_grad():
        rest = y.sign() - y
    return y + rest


class Sign(torch.autograd.Function):
    """Its backward is that of the identity."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        return g


class Exponential(torch.autograd.Function):
    """Its backward is its derivative."""

    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


STRAIGHT_THROUGH = {
    "detach": lambda net, x: x + (x.sign() - x).detach(),
    "another order": lambda net, x: x.round().detach() - x.detach() + x,
    "beside a shortcut": lambda net, x: net.side(x) + (net.side(x).round() - net.side(x)).detach() + x,
    "no_grad": in_no_grad,
    "a function": lambda net, x: Sign.apply(net.side(x)) + x,
}
DERIVATIVES = {
    "a frozen layer": lambda net, x: net.side(x).detach(),
    "a detached gate": lambda net, x: x * torch.sigmoid(net.side(x)).detach(),
    "a detached mean": lambda net, x: x - x.mean((2, 3), keepdim=True).detach(),
    "a function with its derivative": lambda net, x: Exponential.apply(net.side(x)),
}


@pytest.mark.parametrize("case", STRAIGHT_THROUGH)
def test_straight_through_estimators_are_refused(case):
    with pytest.raises(CaptureError, match="straight-through estimator"):
        maps(STRAIGHT_THROUGH[case])


@pytest.mark.parametrize("case", DERIVATIVES)
def test_what_merely_stops_training_is_looked_through(case):
    assert maps(DERIVATIVES[case]).shape == (2, 1, 8, 7)


# Probabilities at the end


@pytest.mark.parametrize(
    "behind",
    [
        lambda y: y.softmax(1),
        lambda y: F.log_softmax(y, -1),
        torch.sigmoid,
        lambda y: torch.log(y.softmax(1)),
        lambda y: y.softmax(1).view(-1, 3, 1).squeeze(2),
        lambda y: 100 * y.softmax(1),
        lambda y: y.softmax(1).nan_to_num() + 1e-8,
        lambda y: (y.softmax(1) + 1e-8).log(),
        lambda y: y.softmax(1).clamp(1e-7, 1).sqrt(),
        F.logsigmoid,
        lambda y: 1 - torch.sigmoid(-y),
        lambda y: 2 * torch.sigmoid(y) - 1,
        lambda y: y.exp() / y.exp().sum(1, keepdim=True),
        lambda y: (lambda e: e / e.sum(1, True))((y - y.amax(1, True)).exp()),
        lambda y: F.log_softmax(y, 1).exp(),
        lambda y: y - y.logsumexp(1, keepdim=True),
    ],
)
def test_probabilities_are_explained_by_their_logits(behind):
    with pytest.warns(FinalActivationWarning, match="its logits, in front of it, are explained"):
        result = agf_fx.compile(net(lambda net, x: x, behind)).explain(images(), 1)
    expected = agf_fx.compile(net()).explain(images(), 1)
    torch.testing.assert_close(result.maps, expected.maps, rtol=0, atol=1e-12)
    torch.testing.assert_close(result.logits, expected.logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "behind",
    [
        lambda y: (y.softmax(1) + (y / 2).softmax(1)) / 2,
        lambda y: torch.stack([y.sigmoid(), (3 * y).sigmoid()]).mean(0),
        lambda y: 1 - y.softmax(1),
        lambda y: y.softmax(1) * torch.tensor([1.0, 2.0, 3.0], dtype=y.dtype),
        lambda y: y.softmax(1)[:, 1:],
        lambda y: y.softmax(1) @ torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=y.dtype),
        lambda y: y.sigmoid() * (2 * y).sigmoid(),
    ],
)
def test_probabilities_that_cannot_be_taken_off_are_named(behind):
    model = net(lambda net, x: x, behind)
    with pytest.warns(FinalActivationWarning, match="computes of probabilities"):
        logits = agf_fx.compile(model).explain(images(), 1).logits
    torch.testing.assert_close(logits, model(images()).detach())


def test_the_probability_of_not_being_a_class_is_explained_by_its_negated_logit():
    with pytest.warns(FinalActivationWarning):
        result = agf_fx.compile(net(lambda net, x: x, lambda y: 1 - y.sigmoid())).explain(images(), 1)
    expected = agf_fx.compile(net(lambda net, x: x, torch.neg)).explain(images(), 1)
    torch.testing.assert_close(result.maps, expected.maps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("behind", [torch.tanh, torch.exp, lambda y: y * y.sigmoid(), lambda y: torch.log(y.abs() + 1)])
def test_other_ends_are_left_in_silence(behind):
    model = net(lambda net, x: x, behind)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FinalActivationWarning)
        logits = agf_fx.compile(model).explain(images(), 1).logits
    torch.testing.assert_close(logits, model(images()).detach())


def test_it_is_said_for_graphs_from_the_cache_too():
    for _ in range(2):
        with pytest.warns(FinalActivationWarning):
            agf_fx.compile(net(lambda net, x: x, lambda y: y.softmax(1)), images())


# Further inputs


def test_further_inputs_are_refused():
    for several in ((images(), torch.zeros(2)), [images(), images()]):
        with pytest.raises(InputError, match=r"holds 2 inputs \(\(2, 3, 8, 7\), .*one image batch"):
            agf_fx.compile(net(), several)
    with pytest.raises(TargetError, match="second input of the model"):
        agf_fx.compile(net())(images(), torch.zeros(2, 4))


class LooksAtItsDtype(nn.Module):
    """In half precision another function than in float32, if ``other``."""

    def __init__(self, other):
        super().__init__()
        self.conv, self.fc, self.other = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), other

    def forward(self, x):
        y = self.conv(x)
        if self.other and x.dtype in (torch.float16, torch.bfloat16):
            y = -y
        return self.fc(torch.relu(y).mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_that_are_others_in_half_precision_are_refused(dtype):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 9, 9).to(dtype)
    same, other = (LooksAtItsDtype(other).eval().to(dtype) for other in (False, True))
    assert agf_fx.compile(same, compile_options=agf_fx.CompileOptions(cache="off"))(images, 1).dtype == torch.float32
    with pytest.raises(CaptureError, match=r"other logits in b?float16 than in float32"):
        agf_fx.compile(other, compile_options=agf_fx.CompileOptions(cache="off"))(images, 1)


def test_models_that_fail_in_half_precision_are_refused_in_words():
    class Fails(LooksAtItsDtype):
        def forward(self, x):
            return super().forward(x.float())  # against weights in float16

    with pytest.raises(CaptureError, match=r"fails when it is called on images in float16 .*model\.float\(\)"):
        agf_fx.compile(Fails(False).eval().half(), compile_options=agf_fx.CompileOptions(cache="off"))(
            torch.randn(2, 3, 9, 9).half(), 1
        )


def test_parts_in_training_mode_are_named():
    layers = (nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 36, 3))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *layers).eval()
    images = torch.randn(2, 3, 8, 8)
    model[1].train()
    with pytest.raises(CaptureError, match=r"its batch norm '1' in training mode, in which it mixes the images"):
        agf_fx.compile(model)(images, 1)
    model.eval()[3].train()
    with pytest.warns(UserWarning, match=r"parts of it are in training mode \(3\)"):
        agf_fx.compile(model)(images, 1)
    model.eval()[2].train()  # a ReLU is the same in either
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agf_fx.compile(model)(images, 1)


@pytest.mark.parametrize("size", [(16, 24), (8, 8)])
def test_a_softmax_over_positions_is_no_end_in_probabilities(size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.Softmax(2)).double().eval()
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = agf_fx.compile(model, method="gradient").explain(images, 1).logits
    torch.testing.assert_close(found, model(images))


def test_values_written_one_by_one_are_those_values():
    class Written(nn.Module):
        def __init__(self, by_one):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.fc, self.by_one = nn.Conv2d(3, 8, 3), nn.Linear(8, 3), by_one

        def forward(self, x):
            h = self.conv(x).relu()
            features, logits = torch.zeros_like(h), None
            for i in range(8):
                features[:, i] = h[:, 7 - i]
            y = self.fc((features if self.by_one else h.flip(1)).mean((2, 3)))
            logits = torch.zeros_like(y)
            for i in range(3):
                logits[:, i] = y[:, i]
            return logits if self.by_one else y

    images = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    found, expected = (agf_fx.compile(Written(by_one).double().eval())(images, 1) for by_one in (True, False))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8 * float(expected.abs().max()))
