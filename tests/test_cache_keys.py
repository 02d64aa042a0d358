"""What the keys of the cache count in, each by two models or ways of running that differ in it alone."""

from __future__ import annotations

import pytest
import torch
from networks import small_vgg
from test_cache import Reading, cache, explained, images

import agf_fx

__all__ = ["cache"]  # a fixture that every test here uses


@pytest.mark.parametrize("kind", ["computed from a buffer", "number of a parameter", "plain tensor"])
def test_two_models_of_other_baked_values_do_not_share_a_graph(kind):
    """Their traces are alike, and what a graph may contain of their values is not."""
    for factor in (1.0, 2.0):
        model = Reading(kind)
        with torch.no_grad():
            for tensor in (model.buffer, model.weight, model.plain, model.kept["first"]):
                tensor.mul_(factor)
        for _ in range(2):  # made, and found on disk
            agf_fx.cache.forget()
            torch.testing.assert_close(agf_fx.compile(model).explain(images(), 1).logits, model(images()).detach())


def test_ways_of_running_do_not_share_a_graph():
    ways = [{}, {"precision": "float32"}, {"backend": "inductor"}]
    model = small_vgg()
    for way in ways:
        assert agf_fx.compile(model, images(), **way).counters.emissions == 1
    for layout in ("contiguous", "channels_last"):
        options = agf_fx.CompileOptions(memory_format=layout)
        assert agf_fx.compile(model, images(), compile_options=options).counters.emissions == (layout != "contiguous")


def test_a_weight_that_is_swapped_behind_its_parameter_is_prepared_anew():
    """``p.data = new`` changes neither the parameter nor its version, only where its values lie."""
    model = small_vgg()
    explainer = agf_fx.compile(model, images())
    before = explainer(images(), 1)
    weight = model.features[0].weight
    version, identity = weight._version, id(weight)
    weight.data = weight.data * 2 + 0.1
    assert (weight._version, id(weight)) == (version, identity)
    found = explainer(images(), 1)
    assert not torch.equal(found, before)
    assert torch.equal(found, explained(model, compile_options=agf_fx.CompileOptions(cache="off"))[0])
