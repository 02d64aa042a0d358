import torch
from emission import unoptimised
from networks import small_vgg

from agf_fx.passes.dead_code import eliminate_dead_code


def test_unread_values_go_and_outputs_stay():
    explanation, run = unoptimised(small_vgg(), 16)
    before, size = run(), len(explanation)

    eliminate_dead_code(explanation)

    assert len(explanation) < size
    assert all(n.users for n in explanation.graph.nodes if n.op == "call_function")
    # The gradient at the image is what AGF never reads.
    assert not any(
        n.meta["layer"] == "features.0" and n.meta["stream"] == "gradient"
        for n in explanation.graph.nodes
        if "layer" in n.meta
    )
    assert all(torch.equal(a, b) for a, b in zip(before, run(), strict=True))
