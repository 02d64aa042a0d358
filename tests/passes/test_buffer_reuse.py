import pytest
import torch
from networks import basic_resnet, reuse, small_vgg
from optimising import around, handmade, lines, run
from torch import fx

from agf_fx.ir.types import BATCH, TensorType
from agf_fx.passes.buffer_reuse import reuse_buffers
from agf_fx.pipeline import OPTIMISATIONS

aten = torch.ops.aten


class Typed:
    """A canonical graph, as far as types need one: images (N, 4)."""

    def __init__(self):
        self.graph = fx.Graph()
        self.images = self.graph.placeholder("images")
        self.image_type = self.images.meta["type"] = TensorType((BATCH, 4), torch.float32)


def reused(*calls):
    explanation = handmade("images target", *calls, canonical=Typed())
    x = torch.randn(3, 4)
    expected = run(explanation, x, None).clone()
    assert torch.equal(run(reuse_buffers(explanation), x, None), expected)
    return lines(explanation.graph)


def test_before_and_after():
    assert reused(
        ("a", aten.exp.default, "images"),
        ("b", aten.add.Scalar, "a", 1.0),
        ("c", aten.sigmoid.default, "images"),
        ("d", aten.mul.Tensor, "c", "b"),
        ("e", aten.sub.Tensor, "images", "d"),
        ("f", aten.abs.default, "e"),
    ) == [
        "%a = exp(%images)",
        "%b = add_.Scalar(%a, 1.0)",
        "%c = sigmoid(%images)",
        "%d = mul_.Tensor(%c, %b)",
        "%e = sub.Tensor(%images, %d)",
        "%f = abs_(%e)",
    ]


@pytest.mark.parametrize(
    ("kept", "calls"),
    [
        ("abs(%images)", [("a", aten.abs.default, "images")]),  # an input is the caller's
        (
            "abs(%a)",  # read later
            [("a", aten.exp.default, "images"), ("b", aten.abs.default, "a"), ("c", aten.add.Tensor, "b", "a")],
        ),
        (
            "neg(%a)",  # a view of it is read later
            [
                ("a", aten.exp.default, "images"),
                ("v", aten.flatten.using_ints, "a", 0, 1),
                ("b", aten.neg.default, "a"),
                ("c", aten.sum.dim_IntList, "v", [0], True),
                ("d", aten.sum.dim_IntList, "b", [0, 1], True),
                ("o", aten.add.Tensor, "d", "c"),
            ],
        ),
        (
            "add.Tensor(%a, %v)",  # both operands
            [
                ("a", aten.exp.default, "images"),
                ("v", aten.transpose.int, "a", 0, 0),
                ("b", aten.add.Tensor, "a", "v"),
            ],
        ),
        (
            "neg(%v)",  # one number repeated
            [
                ("a", aten.sum.dim_IntList, "images", [1], True),
                ("v", aten.expand.default, "a", [-1, 4]),
                ("b", aten.neg.default, "v"),
            ],
        ),
        (
            "neg(%v)",  # a part repeated until it has as many entries as the whole
            [
                ("a", aten.exp.default, "images"),
                ("s", aten.narrow.default, "a", 1, 0, 1),
                ("v", aten.expand.default, "s", [-1, 4]),
                ("b", aten.neg.default, "v"),
            ],
        ),
        (
            "add.Tensor(%a, %images)",  # the result is larger
            [("a", aten.sum.dim_IntList, "images", [1], True), ("b", aten.add.Tensor, "a", "images")],
        ),
        (
            "neg(%v)",  # a view of an input
            [("v", aten.flatten.using_ints, "images", 0, 1), ("b", aten.neg.default, "v")],
        ),
    ],
)
def test_memory_that_is_needed_stays(kept, calls):
    assert any(line.endswith(f"= {kept}") for line in reused(*calls))


def test_a_part_of_a_larger_value_stays():
    written = reused(
        ("a", aten.exp.default, "images"),
        ("parts", aten.chunk.default, "a", 2, 1),
        ("left", torch.ops.aten.narrow.default, "a", 1, 0, 2),
        ("b", aten.neg.default, "left"),
        ("right", torch.ops.aten.narrow.default, "a", 1, 2, 2),
        ("o", aten.add.Tensor, "b", "right"),
    )
    assert written[3].endswith("neg(%left)")


@pytest.mark.parametrize(("build", "size"), [(small_vgg, 16), (basic_resnet, 32), (reuse, 16)])
def test_networks_keep_their_bits(build, size):
    found = around(reuse_buffers, build(), size, prefix=len(OPTIMISATIONS))
    before, after = found.count(aten.mul.Tensor)
    assert after < 0.6 * before
    assert torch.equal(*(outputs[0] for outputs in (found.outputs_before, found.outputs_after)))
