"""The baseline as an input of the canonical graph."""

from __future__ import annotations

import networks
import torch

from agf_fx.frontend.capture import capture
from agf_fx.ir.graph import BASELINE
from agf_fx.ir.verify import verify_canonical
from agf_fx.passes.baseline_input import add_baseline


def test_a_baseline_becomes_the_last_input_and_changes_no_value():
    model, images = networks.small_vgg().eval(), torch.randn(2, 3, 32, 32).double()
    canonical, image = capture(model, images), torch.randn(1, 3, 32, 32).double()
    found = add_baseline(canonical, image)
    verify_canonical(found)
    names = [node.name for node in found.graph.find_nodes(op="placeholder")]
    assert names == [*(node.name for node in canonical.graph.find_nodes(op="placeholder")), BASELINE]
    assert found.signature.constants[BASELINE] is image
    assert BASELINE not in canonical.signature.constants
    inputs = {
        name: model.get_parameter(path) if "running" not in path else model.get_buffer(path)
        for name, path in found.signature.weights.items()
    } | {BASELINE: image}
    assert torch.equal(found.forward(images, inputs)[found.logits], canonical.forward(images, inputs)[canonical.logits])
    assert [node.meta for node in found.calls] == [node.meta for node in canonical.calls]


def test_a_graph_with_a_baseline_stays():
    canonical = capture(networks.small_vgg().eval(), torch.randn(2, 3, 32, 32).double())
    found = add_baseline(canonical, torch.zeros(1, 3, 32, 32).double())
    assert add_baseline(found, torch.ones(1, 3, 32, 32).double()) is found
