"""Prepared constants follow the weights."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from networks import basic_resnet, small_vgg
from torch import nn

import agf_fx
from agf_fx.runtime.weights import sampled_sums


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


def fused_step(model):
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    model(images()).sum().backward()
    optimiser.step()


def batch_statistics(model):
    model.train()
    model(images() * 3 + 1)
    model.eval()


@pytest.mark.parametrize("edit", [fused_step, batch_statistics, lambda model: model.classifier[0].weight.data.mul_(2)])
def test_an_edit_behind_the_version_counter_is_noticed(edit):
    model = basic_resnet() if edit is batch_statistics else small_vgg()
    explainer = agf_fx.compile(model)
    explainer(images(), 1)
    edit(model)
    torch.testing.assert_close(explainer.explain(images(), 1).logits, model(images()).detach())


def test_an_edit_of_few_entries_behind_the_version_counter_needs_a_word():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 9)).double().eval()
    explainer = agf_fx.compile(model)
    x = images(2, 32)
    explainer(x, 1)
    model[1].weight.data[1, 4] += 1
    explainer.forget_weights()
    torch.testing.assert_close(explainer.explain(x, 1).logits, model(x).detach())


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
)
def test_every_kind_of_tensor_is_sampled(dtype):
    tensor = torch.ones(3, 4, 5, 6).to(dtype).contiguous(memory_format=torch.channels_last)
    for changed in (tensor, tensor.transpose(0, 1), torch.zeros(0, dtype=dtype), tensor[0, 0, 0, 0]):
        before = sampled_sums([changed])
        assert sampled_sums([changed]) == before
    before = sampled_sums([tensor])
    tensor.data[1, 2, 3, 4] = 0
    assert sampled_sums([tensor]) != before


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
