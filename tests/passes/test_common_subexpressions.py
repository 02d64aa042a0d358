import torch
from emission import unoptimised
from networks import basic_resnet, small_vgg
from torch import fx

from agf_fx.ir.graph import ExplanationGraph
from agf_fx.passes.common_subexpressions import eliminate_common_subexpressions
from agf_fx.pipeline import verify_step

aten = torch.ops.aten


def handmade(*calls):
    """A graph of calls on one input; each call is (target, args), an int argument in brackets names an earlier call."""
    graph = fx.Graph()
    values = [graph.placeholder("x")]
    for target, args in calls:
        values.append(graph.call_function(target, tuple(values[a[0]] if isinstance(a, tuple) else a for a in args)))
    graph.output(tuple(values[1:]))
    return ExplanationGraph(fx.GraphModule(torch.nn.Module(), graph), None, "handmade")


def test_before_and_after():
    explanation = handmade(
        (aten.abs.default, [(0,)]),
        (aten.abs.default, [(0,)]),
        (aten.sum.dim_IntList, [(2,), [1], True]),
        (aten.sum.dim_IntList, [(1,), [1], True]),
        (aten.sum.dim_IntList, [(1,), [1], False]),
        (aten.add.Scalar, [(0,), 1]),
        (aten.add.Scalar, [(0,), 1.0]),
    )
    eliminate_common_subexpressions(explanation)
    assert [n.name for n in explanation.graph.nodes] == [
        "x",
        "abs_default",
        "sum_dim_int_list",
        "sum_dim_int_list_2",
        "add_scalar",
        "add_scalar_1",
        "output",
    ]
    x = torch.tensor([[-1.0, 2.0]])
    outputs = explanation.module(x)
    assert [o.tolist() for o in outputs[:2]] == [[[1.0, 2.0]]] * 2
    assert [o.tolist() for o in outputs[2:5]] == [[[3.0]], [[3.0]], [3.0]]


def test_weights_are_taken_absolute_once_and_outputs_keep_their_bits():
    for model, size in ((small_vgg(), 16), (basic_resnet(), 32)):
        explanation, run = unoptimised(model, size)
        before, count, size_before = run(), absolute_weights(explanation), len(explanation)

        eliminate_common_subexpressions(explanation)
        verify_step("eliminate_common_subexpressions", explanation)

        assert all(torch.equal(a, b) for a, b in zip(before, run(), strict=True))
        assert len(explanation) < size_before
        assert count > len(set(weights_of(explanation))) == absolute_weights(explanation)


def weights_of(explanation):
    calls = [n for n in explanation.graph.nodes if n.target is aten.abs.default]
    return [n.args[0] for n in calls if n.args[0].op == "placeholder" and n.args[0].name != "images"]


def absolute_weights(explanation):
    return len(weights_of(explanation))
