import torch
from networks import small_vgg

import agf_fx
from agf_fx.emit import emit
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.options import AGFOptions
from agf_fx.passes.dead_code import eliminate_dead_code
from agf_fx.pipeline import ANALYSES
from agf_fx.runtime.program import Program


def test_unread_values_go_and_outputs_stay():
    model = small_vgg()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    canonical = agf_fx.capture(model, images)
    for analysis in ANALYSES:
        analysis(canonical)
    explanation = emit(canonical, attribution_guided_factorization(AGFOptions()))
    inputs = Program(canonical, explanation).inputs(model)
    target = torch.tensor([0, 1])
    before, size = explanation.module(images, target, *inputs), len(explanation)

    eliminate_dead_code(explanation)

    assert len(explanation) < size
    assert all(n.users for n in explanation.graph.nodes if n.op == "call_function")
    # The gradient at the image is what AGF never reads.
    assert not any(
        n.meta["layer"] == "features.0" and n.meta["stream"] == "gradient"
        for n in explanation.graph.nodes
        if "layer" in n.meta
    )
    after = explanation.module(images, target, *inputs)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
