import torch
from networks import basic_resnet, small_vgg
from optimising import around, handmade, lines, run

from agf_fx.passes.nonnegative_values import simplify_nonnegative_values

aten = torch.ops.aten


def test_before_and_after():
    explanation = handmade(
        "images target w",
        ("y", aten.relu.default, "images", {"stream": "forward"}),
        ("a", aten.abs.default, "y"),
        ("v", aten.abs.default, "w"),
        ("z", aten.conv2d.default, "a", "v", None, [1, 1], [1, 1], [1, 1], 1),
        ("s", aten.abs.default, "z"),
        ("d", aten.add.Scalar, "z", 1e-9),
        ("k", aten.sign.default, "d"),
        ("l", aten.abs.default, "k"),
        ("m", aten.mul.Scalar, "l", -1e-9),
        ("n", aten.add.Scalar, "m", 1e-9),
        ("f", aten.add.Tensor, "d", "n"),
        ("b", aten.abs.default, "images"),
        ("q", aten.div.Tensor, "s", "f"),
        ("g", aten.sub.Tensor, "q", "y"),
        ("h", aten.abs.default, "g"),
        ("r", aten.relu.default, "h"),
        ("o", aten.mul.Tensor, "r", "b"),
    )
    x, w = torch.randn(2, 3, 5, 5), torch.randn(3, 3, 3, 3)
    before = run(explanation, x, None, w)
    simplify_nonnegative_values(explanation)
    explanation.graph.eliminate_dead_code()
    assert lines(explanation.graph) == [
        "%y = relu(%images)",
        "%v = abs(%w)",
        "%z = conv2d(%y, %v, None, [1, 1], [1, 1], [1, 1], 1)",
        "%d = add.Scalar(%z, 1e-09)",
        "%b = abs(%images)",
        "%q = div.Tensor(%z, %d)",
        "%g = sub.Tensor(%q, %y)",
        "%h = abs(%g)",
        "%o = mul.Tensor(%h, %b)",
    ]
    assert torch.equal(before, run(explanation, x, None, w))


def test_what_may_be_negative_stays():
    explanation = handmade(
        "images target w",
        ("y", aten.relu.default, "images", {"stream": "forward"}),
        ("z", aten.conv2d.default, "y", "w", None, [1, 1], [1, 1], [1, 1], 1),
        ("a", aten.abs.default, "z"),
        ("n", aten.mul.Scalar, "y", -1.0),
        ("b", aten.abs.default, "n"),
        ("l", aten.add.Scalar, "y", -1.0),
        ("c", aten.abs.default, "l"),
        ("m", aten.mul.Tensor, "a", "b"),
        ("e", aten.mul.Tensor, "y", -1.0),
        ("f", aten.abs.default, "e"),
        ("g", aten.div.Tensor, "y", -1.5),
        ("h", aten.abs.default, "g"),
        ("i", aten.add.Tensor, "y", -0.1),
        ("j", aten.abs.default, "i"),
        ("p", aten.mul.Tensor, "f", "h"),
        ("q", aten.mul.Tensor, "p", "j"),
        ("r", aten.mul.Tensor, "q", "m"),
        ("o", aten.mul.Tensor, "r", "c"),
    )
    before = lines(explanation.graph)
    simplify_nonnegative_values(explanation)
    assert lines(explanation.graph) == before


def test_other_layers_and_movements_keep_the_sign():
    explanation = handmade(
        "images target i",
        ("y", aten.hardtanh.default, "images", 0.0, 6.0, {"stream": "forward"}),
        ("a", aten.upsample_bilinear2d.default, "y", [7, 7], False),
        ("b", aten.index_select.default, "a", 3, "i"),
        ("c", aten.constant_pad_nd.default, "b", [1, -1], 0.5),
        ("d", aten.slice.Tensor, "c", 2, 1, 7, 2),
        ("e", aten.roll.default, "d", [1], [2]),
        ("f", aten.conv3d.default, "e", "e", None, [1], [0], [1], 1),
        ("o", aten.abs.default, "f"),
        ("p", aten.relu.default, "o"),
        ("q", aten.add.Scalar, "p", 1.0),
    )
    simplify_nonnegative_values(explanation)
    assert lines(explanation.graph)[-1] == "%q = add.Scalar(%f, 1.0)"


def test_what_other_operations_may_make_negative_stays():
    explanation = handmade(
        "images target i",
        ("y", aten.hardtanh.default, "images", -1.0, 6.0, {"stream": "forward"}),
        ("a", aten.abs.default, "y"),
        ("p", aten.constant_pad_nd.default, "a", [1, 1], -0.5),
        ("b", aten.abs.default, "p"),
        ("u", aten.clamp.default, "images", None, 6.0),
        ("c", aten.abs.default, "u"),
        ("v", aten.index_select.default, "images", 3, "i"),
        ("d", aten.abs.default, "v"),
        ("e", aten.mul.Tensor, "b", "c"),
        ("o", aten.mul.Tensor, "d", "e"),
    )
    before = lines(explanation.graph)
    simplify_nonnegative_values(explanation)
    assert lines(explanation.graph) == before


def test_networks_keep_their_bits():
    for model, size in ((small_vgg(), 16), (basic_resnet(), 32)):
        found = around(simplify_nonnegative_values, model, size)
        before, after = found.count(aten.abs.default)
        assert after < before
        assert torch.equal(*(outputs[0] for outputs in (found.outputs_before, found.outputs_after)))
