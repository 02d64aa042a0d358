"""Types by table equal types by running on fake tensors."""

from __future__ import annotations

import itertools

import pytest
import torch
from networks import basic_resnet, load_golden, reuse, small_vgg

import agf_fx
from agf_fx.ir import shapes
from agf_fx.ir.shape_rules import RULES, result_type
from agf_fx.ir.types import BATCH, TARGETS, TensorType
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.options import AGFOptions
from agf_fx.pipeline import lower, optimisations


@pytest.mark.parametrize(
    ("build", "dialect", "steps"),
    [
        (small_vgg, "reference", ()),
        (small_vgg, "paper", ()),
        (small_vgg, "reference", optimisations(torch.float16, channels_last=True)),
        (basic_resnet, "reference", optimisations()),
        (reuse, "paper", ()),
        (reuse, "reference", optimisations(in_place=True)),
    ],
    ids=["emitted", "emitted, paper", "float16", "optimised", "reuse, paper", "in place"],
)
def test_the_table_agrees_with_fake_tensors(build, dialect, steps, monkeypatch):
    model = build()
    canonical = agf_fx.capture(model, torch.zeros(1, 3, 32, 32, dtype=next(model.parameters()).dtype))
    method = attribution_guided_factorization(AGFOptions(dialect=dialect))
    types = []
    for table in (True, False):
        if not table:
            monkeypatch.setattr(shapes, "result_type", lambda target, args: None)
        explanation = lower(canonical, method, optimisations=steps)
        for node in explanation.graph.nodes:
            node.meta.pop("type", None)
        explanation.infer_types()
        types.append({node.name: node.meta.get("type") for node in explanation.graph.nodes})
    assert types[0] == types[1]


def test_most_nodes_are_in_the_table(monkeypatch):
    run = []
    monkeypatch.setattr(
        shapes._Fakes,
        "run",
        lambda self, node, value, real=shapes._Fakes.run: run.append(node) or real(self, node, value),
    )
    explanation = agf_fx.compile(load_golden("resnet_tiny.in64").model, torch.zeros(1, 3, 64, 64).double()).graph
    for node in explanation.graph.nodes:
        node.meta.pop("type", None)
    explanation.infer_types()
    assert len(run) < 0.03 * len(explanation)


def test_text_names_images_and_targets():
    explanation = agf_fx.compile(small_vgg(), torch.zeros(1, 3, 16, 16).double()).graph
    text = str(explanation)
    assert "f64[K, N, 4, 16, 16]" in text
    assert "f64[K*N, 4, 16, 16]" in text
    assert explanation.graph.output_node().args[0][0].meta["type"] == TensorType(
        (BATCH, TARGETS, 16, 16), torch.float64
    )


def test_windows_of_pooling():
    cases = itertools.product((5, 8, 11), (2, 3), (1, 2, 3), (0, 1), (1, 2), (False, True))
    for size, kernel, stride, padding, dilation, ceil_mode in cases:
        settings = [[given] * 2 for given in (kernel, stride, padding, dilation)]
        found = result_type(
            torch.ops.aten.max_pool2d_with_indices.default,
            [TensorType((BATCH, 4, size, 9), torch.float64), *settings, ceil_mode],
        )
        values = torch.ops.aten.max_pool2d_with_indices(torch.zeros(1, 4, size, 9).double(), *settings, ceil_mode)
        assert [kind.shape for kind in found] == [(BATCH, *value.shape[1:]) for value in values]
        assert [kind.dtype for kind in found] == [value.dtype for value in values]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sort.stable", ()),
        ("scatter.value", (1, torch.zeros(2, 1, 3, 4).long(), 7.0)),
        ("gather.default", (1, torch.zeros(2, 1, 3, 4).long())),
        ("sub.Scalar", (2.0,)),
        ("div.Scalar", (2.0,)),
        ("adaptive_avg_pool2d.default", ([2, 2],)),
        ("upsample_bilinear2d.default", ([6, 7], False, None, None)),
    ],
)
def test_rows_of_single_operations(name, arguments):
    operation, overload = name.split(".")
    target = getattr(getattr(torch.ops.aten, operation), overload)
    x = torch.rand(2, 5, 3, 4)
    given = [TensorType(tuple(a.shape), a.dtype) if isinstance(a, torch.Tensor) else a for a in arguments]
    keywords = {"stable": True} if operation == "sort" else {}
    expected = target(x, *arguments, **keywords)
    found = result_type(target, [TensorType(tuple(x.shape), x.dtype), *given])
    pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
    for kind, value in pairs:
        assert kind == TensorType(tuple(value.shape), value.dtype)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.int32])
def test_operations_of_integers_are_typed_as_pytorch_types_them(dtype):
    x, checked = torch.ones(2, 5, 3, 4, dtype=dtype), 0
    for target, args in itertools.product(RULES, [(x,), (x, x), (x, x.float()), (x, 2), (x, 2.5), (x, [1], True)]):
        if not isinstance(target, torch._ops.OpOverload) or target is torch.ops.aten.to.dtype:
            continue
        given = [TensorType(tuple(a.shape), a.dtype) if isinstance(a, torch.Tensor) else a for a in args]
        try:
            value, found = target(*args), result_type(target, given)
        except (RuntimeError, TypeError):  # not such arguments, no integers, or settings left out
            continue
        if isinstance(value, torch.Tensor) and found is not None:
            assert found == TensorType(tuple(value.shape), value.dtype), f"{target} of {given}"
            checked += 1
    assert checked > 50


def test_a_share_of_counts_is_a_number():
    class Share(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.Linear(6, 5)

        def forward(self, images):
            h = torch.cat([torch.empty(0), self.layer(images)], 1)
            return self.head(h.mean((2, 3)) * ((h > 0).sum((2, 3)) / 80))

    model, images = Share().eval(), torch.randn(2, 3, 8, 10).requires_grad_()
    (expected,) = torch.autograd.grad(model(images)[:, 2].sum(), images)
    found = agf_fx.compile(model, method="gradient")(images.detach(), 2)
    assert torch.allclose(found, expected.sum(1), atol=1e-6)
