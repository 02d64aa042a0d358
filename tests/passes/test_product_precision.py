import pytest
import torch
from networks import basic_resnet, small_vgg
from optimising import handmade, lines, rank_correlation, run
from torch import fx

import agf_fx
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from agf_fx.passes.product_precision import reduce_product_precision

aten = torch.ops.aten


def graph():
    return handmade(
        "images target w",
        ("v", aten.abs.default, "w"),
        ("z", aten.conv2d.default, "images", "v", None, [1, 1], [1, 1], [1, 1], 1, {"stream": "forward"}),
        ("s", aten.sum.dim_IntList, "z", [1], True),
        ("o", aten.conv_transpose2d.input, "z", "v", None, [1, 1], [1, 1], [0, 0], 1, [1, 1]),
        ("p", aten.mul.Tensor, "o", "s"),
    )


def test_before_and_after():
    explanation = reduce_product_precision(graph(), torch.bfloat16)
    assert lines(explanation.graph) == [
        "%v = abs(%w)",
        "%z = conv2d(%images, %v, None, [1, 1], [1, 1], [1, 1], 1)",
        "%s = sum.dim_IntList(%z, [1], True)",
        "%o_1 = to.dtype(%z, torch.bfloat16)",
        "%o_2 = to.dtype(%v, torch.bfloat16)",
        "%o_3 = conv_transpose2d.input(%o_1, %o_2, None, [1, 1], [1, 1], [0, 0], 1, [1, 1])",
        "%o_4 = to.dtype(%o_3, torch.float32)",
        "%p = mul.Tensor(%o_4, %s)",
    ]


def test_float16_products_survive_the_range_of_relevance():
    images, w = torch.rand(2, 3, 5, 5) * 100, torch.rand(3, 3, 3, 3)
    explanation = handmade(
        "images target w",
        ("v", aten.abs.default, "w"),
        ("x", aten.mul.Scalar, "images", 1e9),
        ("o", aten.conv_transpose2d.input, "x", "v", None, [1, 1], [1, 1], [0, 0], 1, [1, 1]),
    )
    expected = run(explanation, images, None, w)
    found = run(reduce_product_precision(explanation, torch.float16), images, None, w)
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=0)


@pytest.mark.parametrize("dims", [1, 3])
def test_other_dimensions_are_scaled_by_sample(dims):
    sizes, weight = [5] * dims, torch.rand(3, 3, *[2] * dims)
    images = torch.rand(2, 3, *sizes) * 1e7
    images[1] *= 1e-9
    convolution, transposed = CONVOLUTIONS[dims - 1], TRANSPOSED_CONVOLUTIONS[dims - 1]
    one, nothing = [1] * dims, [0] * dims
    explanation = handmade(
        "images target w",
        ("v", aten.abs.default, "w"),
        ("x", aten.mul.Scalar, "images", 3.0),
        ("z", convolution, "x", "v", None, one, nothing, one, 1),
        ("o", transposed, "z", "v", None, one, nothing, nothing, 1, one),
    )
    expected = run(explanation, images, None, weight)
    found = run(reduce_product_precision(explanation, torch.float16), images, None, weight)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=0)


class Signs(fx.Interpreter):
    """Keeps the signs by which the factorisation parts the positions of each image."""

    def run_node(self, n):
        value = super().run_node(n)
        if n.target is aten.sign.default:
            self.seen.append(value.clone())  # the buffer is used again
        return value

    @classmethod
    def of(cls, explainer, images, target):
        program, interpreter = explainer._captured().program, cls(explainer.graph.module)
        interpreter.seen = []
        with torch.no_grad():
            interpreter.run(images, target, *program.inputs(explainer.model))
        return torch.cat([signs.reshape(len(images), -1) for signs in interpreter.seen], 1)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("build", [small_vgg, basic_resnet])
def test_networks(build, precision):
    """Where the factorisation parts the positions alike, the maps are the same, whichever processor sums.

    Its parts are by the sign of a mean. Of an untrained network some are nearly 0, and rounding to bfloat16 may send a
    whole part of an image to the other side: 2 of these 16 images, in other places on other processors.
    """
    model, images = build().float(), torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    target = torch.arange(16)[:, None] % 5
    expected = agf_fx.compile(model)(images, target).flatten(1)
    explainer = agf_fx.compile(model, precision=precision)
    found = explainer(images, target)
    assert found.dtype is torch.float32
    assert torch.equal(explainer.explain(images).logits, agf_fx.compile(model).explain(images).logits)
    moved = Signs.of(explainer, images, target) != Signs.of(agf_fx.compile(model, images), images, target)
    steady = moved.double().mean(1) <= 0.005
    assert steady.sum() >= 12
    assert rank_correlation(found.flatten(1), expected)[steady].min() >= 0.99
    for i in range(4):  # a scale is taken per sample, so that no image sees the others
        torch.testing.assert_close(explainer(images[i : i + 1], target[i : i + 1])[0], found[i], rtol=1e-3, atol=1e-3)
    reduced = {n.args[1] for n in explainer.graph.graph.nodes if n.target is aten.to.dtype}
    assert getattr(torch, precision) in reduced
