import torch
from networks import basic_resnet, small_vgg
from optimising import around, handmade, lines, run

from agf_fx.passes.weight_constants import hoist_weight_constants

aten = torch.ops.aten


class Named:
    name = "handmade"


def test_before_and_after():
    explanation = handmade(
        "images target w unused",
        ("a", aten.abs.default, "w"),
        ("ones", aten.new_ones.default, "w", [1, 3, 5, 5]),
        ("z", aten.conv2d.default, "ones", "a", None, [1, 1], [1, 1], [1, 1], 1),
        ("x", aten.conv2d.default, "images", "w", None, [1, 1], [1, 1], [1, 1], 1),
        ("y", aten.conv2d.default, "images", "a", None, [1, 1], [1, 1], [1, 1], 1),
        ("q", aten.div.Tensor, "y", "z"),
        ("o", aten.mul.Tensor, "q", "x"),
        canonical=Named(),
    )
    images, w = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    before = run(explanation, images, None, w, None)
    hoisted = hoist_weight_constants(explanation)
    assert lines(hoisted.prepare.graph) == [
        "%a = abs(%w)",
        "%ones = new_ones(%w, [1, 3, 5, 5])",
        "%z = conv2d(%ones, %a, None, [1, 1], [1, 1], [1, 1], 1)",
    ]
    assert lines(hoisted.graph) == [
        "%x = conv2d(%images, %w, None, [1, 1], [1, 1], [1, 1], 1)",
        "%y = conv2d(%images, %prepared_a, None, [1, 1], [1, 1], [1, 1], 1)",
        "%q = div.Tensor(%y, %prepared_z)",
        "%o = mul.Tensor(%q, %x)",
    ]
    assert hoisted.inputs == ["w", "prepared_a", "prepared_z"]
    assert hoisted.prepared == ["prepared_a", "prepared_z"]
    assert torch.equal(run(hoisted, images, None, w, *hoisted.prepare(w, None)), before)


def test_networks_keep_their_bits_and_prepare_what_weights_decide():
    for model, size in ((small_vgg(), 16), (basic_resnet(), 32)):
        found = around(hoist_weight_constants, model, size)
        assert found.before.prepare is None
        assert torch.equal(*(outputs[0] for outputs in (found.outputs_before, found.outputs_after)))
        placeholders = {node for node in found.after.graph.nodes if node.op == "placeholder"}
        varying = {node for node in placeholders if node.name in ("images", "target")}
        for node in found.after.graph.nodes:
            if node.op == "call_function":
                assert varying & set(node.all_input_nodes), node
                varying.add(node)
        convolutions = {n.target for n in found.after.prepare.graph.nodes}
        assert {aten.conv2d.default, aten.abs.default, aten.clamp_min.default} <= convolutions
