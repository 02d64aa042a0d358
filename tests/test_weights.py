"""Prepared constants follow the weights."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from networks import basic_resnet, small_vgg
from torch import nn

import agf_fx


def images(count=2, size=16):
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def preparations(explainer):
    return explainer.counters.prepares


def optimiser_step(model):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images()).square().sum().backward()
    optimiser.step()


def load_state(model):
    model.load_state_dict({name: value * 1.1 for name, value in model.state_dict().items()})


def initialise(model):
    nn.init.normal_(model.classifier[0].weight)


def replace_parameter(model):
    model.classifier[0].weight = nn.Parameter(model.classifier[0].weight * 2)


def edit_statistics(model):
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).running_mean.add_(0.5)


@pytest.mark.parametrize("change", [optimiser_step, load_state, initialise, replace_parameter, edit_statistics])
def test_a_change_of_weights_is_seen_at_the_next_call(change):
    model = small_vgg()
    explainer = agf_fx.compile(model)
    before = explainer(images(), 1)
    assert torch.equal(explainer(images(), 1), before)
    assert preparations(explainer) == 1
    change(model)
    after = explainer(images(), 1)
    assert preparations(explainer) == 2
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, agf_fx.compile(model)(images(), 1), rtol=0, atol=0)


def test_weights_are_prepared_once_for_many_calls():
    explainer = agf_fx.compile(basic_resnet())
    for count in (1, 3, 2):
        explainer(images(count, 32), torch.zeros(count, 2, dtype=torch.int64))
    assert preparations(explainer) == 1


def test_weights_without_a_version_counter_are_prepared_at_every_call():
    model = small_vgg()
    explainer = agf_fx.compile(model, images())
    with torch.inference_mode():
        weight = model.classifier[0].weight.clone()
        model.classifier[0].weight = nn.Parameter(weight, requires_grad=False)
    before = explainer(images(), 1)
    with torch.inference_mode():
        model.classifier[0].weight.mul_(2)
    assert not torch.equal(explainer(images(), 1), before)
    assert preparations(explainer) == 2


def test_an_edit_behind_the_version_counter_needs_a_word():
    model = small_vgg()
    explainer = agf_fx.compile(model)
    before = explainer(images(), 1)
    model.classifier[0].weight.data.mul_(2)
    explainer.forget_weights()
    assert not torch.equal(explainer(images(), 1), before)


def test_old_weights_are_not_kept_alive():
    model = small_vgg()
    explainer = agf_fx.compile(model)
    explainer(images())
    old = weakref.ref(model.classifier[0].weight)
    model.classifier[0].weight = nn.Parameter(torch.ones_like(model.classifier[0].weight))
    explainer(images())
    gc.collect()
    assert old() is None


def test_half_of_a_model_on_another_dtype_is_not_mixed_up():
    model, x = small_vgg(), images()
    explainer = agf_fx.compile(model)
    double = explainer(x, 1)
    model.float()
    single = explainer(x.float(), 1)
    assert single.dtype is torch.float32
    assert ((single - double).abs().max() / double.abs().max()) < 1e-3
