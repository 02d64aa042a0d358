import torch
from networks import basic_resnet, reuse, small_vgg
from optimising import around, handmade, lines, run

from agf_fx.passes.relu_masks import drop_relu_masks

aten = torch.ops.aten


def test_before_and_after():
    explanation = handmade(
        "images target phi",
        ("y", aten.relu.default, "images", {"stream": "forward"}),
        ("d", aten.add.Scalar, "y", 1e-9),
        ("share", aten.div.Tensor, "y", "d"),
        ("t", aten.mul.Tensor, "phi", "share"),
        ("u", aten.threshold_backward.default, "t", "y", 0),
        ("sign", aten.sign.default, "images"),
        ("mask", aten.abs.default, "sign"),
        ("b", aten.add.Scalar, "images", 1e-9),
        ("k", aten.sign.default, "b"),
        ("l", aten.abs.default, "k"),
        ("m", aten.mul.Scalar, "l", -1e-9),
        ("n", aten.add.Scalar, "m", 1e-9),
        ("f", aten.add.Tensor, "b", "n"),
        ("r", aten.div.Tensor, "mask", "f"),
        ("o", aten.mul.Tensor, "u", "r"),
    )
    x, phi = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    x[0, 0] = torch.tensor([0.0, -1e-9, 1e-9, -0.0])
    before = run(explanation, x, None, phi)
    drop_relu_masks(explanation)
    explanation.graph.eliminate_dead_code()
    assert lines(explanation.graph) == [
        "%y = relu(%images)",
        "%d = add.Scalar(%y, 1e-09)",
        "%share = div.Tensor(%y, %d)",
        "%t = mul.Tensor(%phi, %share)",
        "%o_1 = add.Scalar(%y, 1e-09)",
        "%o_2 = div.Tensor(%t, %o_1)",
    ]
    torch.testing.assert_close(run(explanation, x, None, phi), before, rtol=1e-15, atol=0)


def test_masks_stay_on_values_that_need_them():
    explanation = handmade(
        "images target phi",
        ("y", aten.relu.default, "images", {"stream": "forward"}),
        ("other", aten.relu.default, "phi", {"stream": "forward"}),
        ("t", aten.mul.Tensor, "phi", "other"),
        ("s", aten.add.Tensor, "t", "y"),  # vanishes where neither alone does
        ("u", aten.threshold_backward.default, "s", "y", 0),
        ("v", aten.threshold_backward.default, "t", "y", 0),
        ("o", aten.mul.Tensor, "u", "v"),
    )
    before = lines(explanation.graph)
    drop_relu_masks(explanation)
    assert lines(explanation.graph) == before


def test_networks():
    for model, size in ((small_vgg(), 16), (basic_resnet(), 32), (reuse(), 16)):
        found = around(drop_relu_masks, model, size)
        before, after = found.count(aten.threshold_backward.default)
        assert after < before
        assert found.difference <= 1e-12
