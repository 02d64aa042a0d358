"""Explanations follow what a model and its functions hold besides weights."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import agf_fx
from agf_fx.frontend.baked import places

IMAGES = torch.randn(2, 3, 8, 7, generator=torch.Generator().manual_seed(0))
SCALE, FACTOR, ARRAY = torch.tensor(3.0), 2.0, np.array([1.5], dtype=np.float32)


class Settings:
    def __init__(self):
        self.shift, self.weights = 1.0, [torch.ones(3)]


HELD = Settings()


def scaled(y):
    return y * SCALE + FACTOR


class Network(nn.Module):
    """Reads closures, globals, objects, an array and an attribute; symbolically traced, or only exported."""

    def __init__(self, only_exported):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 3)
        self.only_exported, self.gain = only_exported, 1.0
        self.closed = torch.tensor([2.0])
        hidden, closed = nn.Linear(3, 3), self.closed.clone()
        self.function = (lambda y: hidden(y) * closed,)
        self.inside = (hidden, closed)
        del self.closed

    def forward(self, x):
        if self.only_exported:
            assert len([*x.shape]) == 4
        y = self.fc(self.act(self.conv(x)).mean((2, 3)))
        y = scaled(self.function[0](y)) * HELD.weights[0] + HELD.shift
        return y * self.gain * torch.from_numpy(ARRAY)


def rebind_global(model):
    globals()["SCALE"] = torch.tensor(5.0)


def edit_number(model):
    globals()["FACTOR"] += 1.0


def edit_hidden_layer(model):
    with torch.no_grad():
        model.inside[0].weight.mul_(2)


def replace_activation(model):
    model.act = nn.Tanh()


def set_attribute(model):
    model.gain = 3.0


def set_setting(model):
    model.conv.padding = (1, 1)


CHANGES = [
    lambda model: SCALE.mul_(2),
    rebind_global,
    edit_number,
    lambda model: setattr(HELD, "shift", HELD.shift - 0.5),
    lambda model: HELD.weights[0].add_(1),
    lambda model: model.inside[1].add_(1),
    lambda model: ARRAY.__imul__(2),
    edit_hidden_layer,
    replace_activation,
    set_attribute,
    set_setting,
]


def state(model):
    tensors, values = places(model, buffers=False).now(model)
    return [(id(tensor), tensor._version) for tensor in tensors], values


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_what_functions_and_modules_hold_are_seen(change):
    model = Network(False).eval()
    before = state(model)
    assert state(model) == before
    change(model)
    assert state(model) != before


@pytest.mark.parametrize("only_exported", [False, True])
def test_maps_follow_what_functions_and_modules_hold(only_exported):
    model = Network(only_exported).eval()
    explainer = agf_fx.compile(model, method="gradient_x_input")
    for change in (CHANGES[0], CHANGES[5]) if only_exported else (CHANGES[1], CHANGES[7], replace_activation):
        explainer(IMAGES)
        change(model)
        logits = explainer.explain(IMAGES, 1).logits
        torch.testing.assert_close(logits, model(IMAGES).detach(), rtol=1e-4, atol=1e-5)
    captures = explainer.counters.captures
    explainer(IMAGES)
    assert explainer.counters.captures == captures


class Kept:
    scale = 1.0

    def __init__(self):
        self.tensor = torch.ones(1)

    def __call__(self, y):
        return y * self.tensor

    def scaled(self, y):
        return y * self.scale * self.tensor


class Holder(nn.Module):
    """Reads what an attribute holds, in one of many ways."""

    def __init__(self, kept, read):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.kept, self.read = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), kept, (read,)

    def forward(self, x):
        return self.read[0](self.kept, self.fc(torch.relu(self.conv(x)).mean((2, 3))))


def call(kept, y):
    return kept(y)


def replaced(name, value):
    return lambda model: setattr(model, name, value)


HOLDERS = {
    "partial": (lambda: partial(torch.mul, torch.ones(1)), call, lambda model: model.kept.args[0].mul_(3)),
    "another partial": (
        lambda: partial(F.leaky_relu, negative_slope=0.1),
        call,
        replaced("kept", partial(F.leaky_relu)),
    ),
    "another function": (lambda: torch.neg, call, replaced("kept", torch.abs)),
    "object": (Kept, call, lambda model: model.kept.tensor.mul_(3)),
    "method": (lambda: Kept().scaled, call, lambda model: setattr(model.kept.__self__, "scale", 3.0)),
    "namespace": (
        lambda: SimpleNamespace(k=2.0),
        lambda kept, y: y * kept.k,
        lambda model: setattr(model.kept, "k", 3.0),
    ),
    "dictionary": (lambda: {"k": 2.0}, lambda kept, y: y * kept["k"], lambda model: model.kept.update(k=3.0)),
    "list": (lambda: [2.0], lambda kept, y: y * kept[0], lambda model: model.kept.insert(0, 3.0)),
    "flag": (lambda: {"on": True}, lambda kept, y: -y if kept["on"] else y, lambda model: model.kept.update(on=False)),
    "array": (
        lambda: np.ones(1, dtype=np.float32),
        lambda kept, y: y * torch.from_numpy(kept),
        lambda m: m.kept.fill(3),
    ),
}


@pytest.mark.parametrize("case", HOLDERS)
def test_maps_follow_what_attributes_hold(case):
    make, read, change = HOLDERS[case]
    model = Holder(make(), read).eval()
    explainer = agf_fx.compile(model, method="gradient_x_input")
    explainer(IMAGES)
    change(model)
    for _ in range(2):
        logits = explainer.explain(IMAGES, 1).logits
        torch.testing.assert_close(logits, model(IMAGES).detach(), rtol=1e-4, atol=1e-5)
    assert explainer.counters.captures <= 2


@pytest.mark.parametrize("choice", [lambda kept: kept, lambda kept: kept.scaled])
def test_the_choice_of_logits_may_hold_values(choice):
    kept = Kept()
    model, output = Holder(None, lambda kept, y: y).eval(), choice(kept)
    explainer = agf_fx.compile(model, output=output)
    explainer(IMAGES)
    kept.tensor.mul_(3)
    torch.testing.assert_close(explainer.explain(IMAGES, 1).logits, output(model(IMAGES)).detach())


def test_the_choice_of_logits_is_followed():
    weight = torch.tensor([1.0, 2.0, 3.0])
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    explainer = agf_fx.compile(model, output=lambda y: y * weight)
    for _ in range(2):
        torch.testing.assert_close(explainer.explain(IMAGES, 1).logits, (model(IMAGES) * weight).detach())
        weight.add_(1)


class Constants:
    """A class as a name space."""

    gain = 1.0


def test_attributes_of_classes_and_replaced_methods_are_followed():
    class ReadsAClass(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.conv(x * Constants.gain).relu().mean((2, 3)))

    model = ReadsAClass().eval()
    explainer = agf_fx.compile(model)
    explainer(IMAGES)
    try:
        Constants.gain = -2.0
        torch.testing.assert_close(explainer.explain(IMAGES, 1).logits, model(IMAGES).detach())
    finally:
        Constants.gain = 1.0
    explainer(IMAGES)
    ReadsAClass.forward = lambda self, x: self.fc(self.conv(x * 3).relu().mean((2, 3)))
    torch.testing.assert_close(explainer.explain(IMAGES, 1).logits, model(IMAGES).detach())
