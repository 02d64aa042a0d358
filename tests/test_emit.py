"""The driver and the two executions of it."""

from __future__ import annotations

import ast
import functools
import inspect

import pytest
import torch
from emission import weights
from networks import basic_resnet, reuse, small_vgg

import agf_fx
import agf_fx.errors
from agf_fx import emit as emission
from agf_fx.emit import emit, interpret
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.methods.gradient import gradient_times_input
from agf_fx.options import AGFOptions
from agf_fx.pipeline import ANALYSES, lower, pipeline, verify_step
from agf_fx.runtime.program import Program

NETWORKS = {"vgg": (small_vgg, 16), "resnet": (basic_resnet, 32), "reuse": (reuse, 16)}
METHODS = {
    "agf": attribution_guided_factorization(AGFOptions()),
    "paper": attribution_guided_factorization(AGFOptions(dialect="paper")),
    "gradient": gradient_times_input(),
}


TARGET = torch.tensor([[0, -1], [3, 0], [4, 4]])  # (images, targets)


@functools.cache
def case(name, method="agf"):
    """A network, images, its explanation as it is emitted, and the weights by name."""
    build, size = NETWORKS[name]
    torch.manual_seed(0)
    model, images = build(), torch.randn(3, 3, size, size, dtype=torch.float64)
    canonical = agf_fx.capture(model, images)
    explanation = lower(canonical, METHODS[method], verify_step, optimisations=())
    return model, images, explanation, weights(canonical, model)


@functools.cache
def optimised_case(name, method="agf"):
    """The same with the explanation as it is run."""
    model, images, explanation, inputs = case(name, method)
    return model, images, lower(explanation.canonical, METHODS[method]), inputs


def classes(logits, target):
    """The class numbers that TARGET stands for, (images, targets)."""
    return torch.where(target < 0, logits.argmax(1, keepdim=True), target)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_emitted_graph_and_eager_interpreter_give_the_same_bits(name, method):
    model, images, explanation, inputs = case(name, method)
    with torch.inference_mode():
        maps, logits = explanation.module(images, TARGET, *inputs.values())
    streams = interpret(explanation.canonical, METHODS[method], images, TARGET, inputs)
    assert maps.shape == (3, 2, *images.shape[2:])
    assert torch.equal(maps, streams.maps)
    assert torch.equal(logits, streams.logits)
    torch.testing.assert_close(logits, model(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", [case, optimised_case], ids=["emitted", "optimised"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("method", "tolerance"), [("agf", 1e-12), ("gradient", 1e-12), ("paper", 1e-11)])
def test_several_targets_equal_single_ones(name, method, tolerance, case):
    """The paper dialect solves systems that are nearly singular, which raises rounding to 1.1e-12."""
    model, images, explanation, _ = case(name, method)
    program = Program(explanation.canonical, explanation)
    inputs = program.inputs(model)
    target = torch.tensor([[0, -1, 2], [3, 0, -5], [4, 4, -2]])
    together, logits = program.run(images, target, inputs)
    for k in range(3):
        alone, same = program.run(images, target[:, k : k + 1], inputs)
        assert torch.equal(logits, same)
        for one, other in zip(together[:, k], alone[:, 0], strict=True):
            assert (one - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("name", ["vgg", "resnet"])  # autograd refuses the in-place operations of the third
def test_gradient_stream_equals_autograd(name):
    model, images, explanation, inputs = case(name)
    streams = interpret(explanation.canonical, METHODS["agf"], images, TARGET, inputs)
    images = images.clone().requires_grad_()
    y = model(images)
    for found, target in zip(streams.gradient["images"], classes(y, TARGET).T, strict=True):
        y_t = y.gather(1, target[:, None])
        sigma = (y - y_t).abs().amax(1, keepdim=True)
        score = torch.softmax(y_t * torch.exp(-0.5 * ((y - y_t) / sigma) ** 2), 1).gather(1, target[:, None])
        (expected,) = torch.autograd.grad(score.sum(), images, retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8 * expected.abs().max())


def test_gradient_times_input_equals_autograd():
    model, images, explanation, inputs = case("resnet", "gradient")
    maps, _ = explanation.module(images, TARGET, *inputs.values())
    images = images.clone().requires_grad_()
    y = model(images)
    for k, target in enumerate(classes(y, TARGET).T):
        (gradient,) = torch.autograd.grad(y.gather(1, target[:, None]).sum(), images, retain_graph=True)
        torch.testing.assert_close(maps[:, k], (images * gradient).sum(1).detach(), rtol=1e-9, atol=1e-12)


def test_the_driver_is_short_enough_to_read():
    (function,) = ast.parse(inspect.getsource(emission.propagate)).body
    assert function.end_lineno - function.lineno + 1 <= 30


@pytest.mark.parametrize("case", [case, optimised_case], ids=["emitted", "optimised"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_is_plain_aten_without_autograd(name, case):
    explanation = case(name)[2]
    calls = [n for n in explanation.graph.nodes if n.op == "call_function"]
    names = {str(n.target) for n in calls}
    assert not [n for n in explanation.graph.nodes if n.op not in ("placeholder", "call_function", "output")]
    assert all(isinstance(n.target, torch._ops.OpOverload) for n in calls if n.target.__name__ != "getitem")
    assert not any("autograd" in name or "requires_grad" in name for name in names)
    assert "autograd" not in explanation.module.code


@pytest.mark.parametrize("case", [case, optimised_case], ids=["emitted", "optimised"])
def test_every_node_says_where_it_comes_from(case):
    explanation = case("resnet")[2]
    for node in explanation.graph.nodes:
        if node.op == "call_function" and node.users:
            assert node.meta["stream"] in ("forward", "gradient", "relevance", "read-out")
            assert node.meta["stream"] == "forward" or node.meta["rule"]
            assert node.meta["stream"] == "forward" or node.meta["equation"], node
    layers = {n.meta["layer"] for n in explanation.graph.nodes if n.meta.get("rule") == "guided_convolution"}
    assert layers == {f"layer{stage}.0.conv1" for stage in range(1, 5)}
    symbols = {n.meta["symbol"] for n in explanation.graph.nodes if n.meta.get("rule") == "guided_convolution"}
    assert {"C", "A", "M", "F_x", "F_∇x", "r", "Φ"} <= symbols


def test_the_pipeline_is_one_tuple_of_named_steps():
    names = [getattr(step, "func", step).__name__ for step in pipeline(METHODS["agf"])]
    assert names == [
        "mark_heads",
        "check_class_dimension",
        "mark_gates",
        "mark_input_layers",
        "mark_nonnegative_inputs",
        "mark_image_channels",
        "mark_residual_merges",
        "mark_residual_convolutions",
        "mark_flatten_boundaries",
        "mark_open_merges",
        "mark_depths",
        "check_needs",
        "canonise",
        "emit",
        "eliminate_common_subexpressions",
        "drop_gradient_masks",
        "eliminate_dead_code",
        "fold_batch_norms",
        "simplify_nonnegative_values",
        "drop_relu_masks",
        "eliminate_common_subexpressions",
        "eliminate_dead_code",
        "stack_sibling_products",
        "hoist_weight_constants",
    ]


def test_debug_mode_can_print_every_graph(monkeypatch, capsys):
    monkeypatch.setenv("AGF_FX_DEBUG", "print")
    canonical = agf_fx.capture(small_vgg(), torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    lower(canonical, METHODS["agf"])
    printed = capsys.readouterr().err
    assert printed.count("=== after ") == len(pipeline(METHODS["agf"]))
    assert "=== after hoist_weight_constants\n# prepared once per set of weights" in printed


def test_debug_mode_verifies_after_every_step(monkeypatch):
    from agf_fx import pipeline as module

    seen = []
    monkeypatch.setenv("AGF_FX_DEBUG", "1")
    monkeypatch.setattr(module, "verify_step", lambda name, graph: seen.append(name))
    canonical = agf_fx.capture(small_vgg(), torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    module.lower(canonical, METHODS["agf"])
    assert len(seen) == len(pipeline(METHODS["agf"]))


def test_a_broken_graph_is_reported_with_its_lines():
    explanation = case.__wrapped__("vgg")[2]
    node = next(n for n in explanation.graph.nodes if n.meta.get("stream") == "relevance" and n.meta.get("stream_of"))
    node.meta["stream_of"] = ["images"]
    with pytest.raises(agf_fx.errors.VerifyError, match=r"(?s)is the relevance of %images.*>> %"):
        verify_step("test", explanation)


def test_analyses_can_run_again():
    canonical = agf_fx.capture(basic_resnet(), torch.zeros(1, 3, 32, 32, dtype=torch.float64))
    texts = []
    for _ in range(2):
        for analysis in ANALYSES:
            analysis(canonical)
        texts.append(str(canonical))
    assert texts[0] == texts[1]
    assert str(emit(canonical, METHODS["agf"])) == str(emit(canonical, METHODS["agf"]))
