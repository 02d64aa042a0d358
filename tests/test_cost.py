"""What explanations cost: every operation has a row, and the sums agree with what is counted and allocated."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
import sympy
import torch
import torch.nn.functional as F
from networks import reuse, small_vgg
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import agf_fx
from agf_fx.errors import InputError, OptionsError
from agf_fx.inspect.cost_figure import cost_figure, save
from agf_fx.ir import operations
from agf_fx.ir.cost_model import POINTS, graph_cost, in_words, substituted
from agf_fx.ir.costs import node_cost
from agf_fx.ir.flops import FLOPS, PRODUCTS, flops, row
from agf_fx.ir.liveness import Copies, copies, live_expressions, peak_bytes, peak_expression
from agf_fx.ir.text import op_name
from agf_fx.ir.types import BATCH, TARGETS, TensorType
from agf_fx.ir.vocabulary import VOCABULARY
from agf_fx.methods.path import IntegratedGradientsOptions
from agf_fx.rules.register import taught_operations
from agf_fx.runtime.stepping import explained_with

aten = torch.ops.aten
SIZE = 16
METHODS = ("agf", "lrp-epsilon", "gradcam", "integrated-gradients", "guided-backprop")


# --- rows -----------------------------------------------------------------------------------------------------------


def every_operation():
    """The vocabulary, and all that a graph on disk may hold besides."""
    found = set(VOCABULARY) - taught_operations().keys() | set(operations._LISTED)
    for schema in torch._C._jit_get_all_schemas():
        packet = getattr(aten, schema.name.removeprefix("aten::"), None) if schema.name.startswith("aten::") else None
        overload = getattr(packet, schema.overload_name or "default", None)
        if isinstance(overload, torch._ops.OpOverload) and operations.storable(overload):
            found.add(overload)
    return found


def test_every_operation_has_a_row():
    assert not [op_name(target) for target in every_operation() if row(target) is None]


def test_operations_of_the_vocabulary_are_listed_by_name():
    """None of them rests on PyTorch's own tag alone."""
    assert not [op_name(target) for target in VOCABULARY if target not in FLOPS and target not in taught_operations()]


def test_an_operation_of_nobody_has_no_row():
    assert row(torch.ops.aten.cholesky_solve.default) is None
    assert flops(torch.ops.aten.cholesky_solve.default, None, ()) is None


def kind(*shape):
    return TensorType(shape, torch.float32)


def test_rows_by_hand():
    images, weight = kind(BATCH, 4, 8, 8), kind(6, 4, 3, 3)
    result = kind(BATCH, 6, 8, 8)
    assert flops(aten.conv2d.default, result, (images, weight)) == 2 * BATCH * 6 * 64 * 36
    back = (result, weight, None, [1, 1], [1, 1], [0, 0], 1, [1, 1])
    assert flops(aten.conv_transpose2d.input, images, back) == 2 * BATCH * 6 * 64 * 36
    grouped = flops(aten.conv2d.default, images, (images, kind(4, 1, 3, 3)))
    assert grouped == 2 * BATCH * 4 * 64 * 9
    tokens = kind(BATCH, 5, 7)
    assert flops(aten.matmul.default, kind(BATCH, 5, 3), (tokens, kind(7, 3))) == 2 * BATCH * 5 * 7 * 3
    assert flops(aten.linear.default, kind(BATCH, 3), (kind(BATCH, 7), kind(3, 7))) == 2 * BATCH * 21
    assert flops(aten.relu.default, images, (images,)) == 256 * BATCH
    assert flops(aten.relu_.default, images, (images,)) == 256 * BATCH
    assert flops(aten.reshape.default, kind(BATCH, 256), (images, [-1, 256])) == 0
    pooled = kind(BATCH, 4, 4, 4)
    pooling = ([2, 2], [2, 2], [0, 0], [1, 1], False)
    assert flops(aten.max_pool2d_with_indices.default, (pooled, pooled), (images, *pooling)) == 256 * BATCH
    assert flops(aten.avg_pool2d.default, pooled, (images, [2], [2])) == 64 * BATCH * 5
    assert flops(aten.sum.dim_IntList, kind(BATCH, 4), (images, [2, 3])) == 256 * BATCH
    assert flops(aten.sort.stable, (images, images), (images, True, -1, False)) == 3 * 256 * BATCH
    masked = [True, False, False]
    g = (result, images, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, masked)
    assert flops(aten.convolution_backward.default, (images,), g) == 2 * BATCH * 6 * 64 * 36


def test_products_agree_with_those_of_pytorch_on_single_calls():
    x, w = torch.randn(3, 4, 9, 7), torch.randn(6, 2, 3, 2)
    calls = [
        (aten.conv2d.default, (x, w, None, [2, 1], [1, 1], [1, 2], 2)),
        (aten.conv_transpose2d.input, (x, torch.randn(4, 3, 3, 2), None, [2, 1], [1, 0], [1, 0], 2, [1, 1])),
        (aten.conv1d.default, (x[..., 0], torch.randn(5, 4, 3), None, [1], [0], [1], 1)),
        (aten.conv3d.default, (torch.randn(2, 4, 5, 5, 5), torch.randn(3, 4, 2, 2, 2))),
        (aten.linear.default, (torch.randn(3, 5, 7), torch.randn(4, 7))),
        (aten.matmul.default, (torch.randn(3, 2, 5, 7), torch.randn(2, 7, 4))),
        (aten.bmm.default, (torch.randn(3, 5, 7), torch.randn(3, 7, 4))),
        (aten.mm.default, (torch.randn(5, 7), torch.randn(7, 4))),
        (aten.addmm.default, (torch.randn(4), torch.randn(5, 7), torch.randn(7, 4))),
    ]
    for target, args in calls:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            result = target(*args)
        types = [kind(*a.shape) if isinstance(a, torch.Tensor) else a for a in args]
        assert flops(target, kind(*result.shape), tuple(types)) == counter.get_total_flops(), target
        assert target in PRODUCTS


# --- ten networks and five methods ----------------------------------------------------------------------------------


class Separable(nn.Module):
    """Depthwise and pointwise convolutions, with a gate on the channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.depthwise, self.norm = nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.point, self.fc = nn.Conv2d(8, 12, 1), nn.Linear(12, 5)

    def forward(self, x):
        x = F.silu(self.stem(x))
        x = F.hardswish(self.norm(self.depthwise(x)))
        x = x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.fc(F.relu(self.point(x)).mean((2, 3)))


class Dense(nn.Module):
    """Features that are concatenated, and average pooling."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(8, 6, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = torch.cat([x, F.relu(self.b(x))], 1)
        return self.fc(F.avg_pool2d(F.relu(self.c(x)), 2).mean((2, 3)))


class Branches(nn.Module):
    """Kernels of several sizes side by side, as in Inception."""

    def __init__(self):
        super().__init__()
        self.one, self.three, self.five = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(3, 4, 5, 1, 2)
        self.last, self.fc = nn.Conv2d(15, 6, 3, 2), nn.Linear(6 * 49, 5)

    def forward(self, x):
        pooled = F.max_pool2d(x, 3, 1, 1)
        x = torch.cat([F.relu(self.one(x)), F.relu(self.three(x)), F.relu(self.five(x)), pooled], 1)
        return self.fc(torch.flatten(F.relu(self.last(x)), 1))


class Transposed(nn.Module):
    """Down and up again."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 3, 2, 1), nn.ConvTranspose2d(6, 4, 2, 2)
        self.last, self.fc = nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(F.relu(self.last(F.relu(self.up(F.relu(self.down(x)))))).mean((2, 3)))


class Tokens(nn.Module):
    """Attention over patches."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.mlp, self.fc = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        weights = torch.softmax(self.q(y) @ self.k(y).transpose(1, 2) / 8**0.5, -1)
        x = x + self.out(weights @ self.v(y))
        return self.fc(F.gelu(self.mlp(x)).mean(1))


class Residual(nn.Module):
    """A block with a projection, as in ResNets."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.norm, self.project, self.fc = nn.BatchNorm2d(6), nn.Conv2d(4, 6, 1, 2), nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.project(x) + self.norm(self.b(F.relu(self.a(x)))))
        return self.fc(x.mean((2, 3)))


class Normed(nn.Module):
    """Group norms and a residual sum, without batch norms."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.norm, self.fc = nn.GroupNorm(2, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = F.elu(self.stem(x))
        return self.fc(F.leaky_relu(x + self.norm(self.conv(x))).amax((2, 3)))


NETWORKS = {
    "vgg": small_vgg,
    "vgg without norms": lambda: small_vgg(bn=False),
    "residual": Residual,
    "reuse": reuse,
    "separable": Separable,
    "dense": Dense,
    "branches": Branches,
    "transposed": Transposed,
    "tokens": Tokens,
    "normed": Normed,
}


@functools.cache
def network(name):
    torch.manual_seed(0)
    return NETWORKS[name]().float().eval()


def explainer(name, method):
    options = IntegratedGradientsOptions(steps=5) if method == "integrated-gradients" else None
    return agf_fx.compile(network(name), torch.zeros(1, 3, SIZE, SIZE), method=method, options=options)


def images(count):
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


CASES = [(name, method) for name in NETWORKS for method in METHODS if (name, method) != ("tokens", "lrp-epsilon")]


@pytest.mark.parametrize(("name", "method"), [*CASES, ("tokens", "attnlrp")])
def test_products_agree_with_pytorchs_counter(name, method):
    explaining, target = explainer(name, method), torch.tensor([[0, 1, 2], [3, 0, 4]])
    cost = explaining.cost()(2, 3)
    bound = explaining._captured()  # not by a call: the counter hooks modules, and so makes another model of it
    weights = bound.weights.current(explaining.model)
    bound.weights.prepared(weights, bound.program.placement)  # what is done once is no part of it
    with FlopCounterMode(display=False) as counter:
        explained_with(bound.program, explaining._rules, images(2), target, weights, bound.weights)
    assert cost.product_flops == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert cost.product_flops <= cost.flops
    assert not cost.uncounted
    assert cost.bytes.is_Integer
    assert 0 < cost.peak < cost.memory


# --- expressions ----------------------------------------------------------------------------------------------------


def test_expressions_have_the_values_of_sums_at_numbers():
    explaining = explainer("residual", "agf")
    graph, cost = explaining.graph, explaining.cost()
    assert cost.flops.free_symbols == {BATCH, TARGETS}
    for images_, targets in ((1, 1), (4, 1), (3, 7)):
        at = {BATCH: images_, TARGETS: targets}
        counted = sum(int(node_cost(node).flops.subs(at)) for node in graph.graph.nodes)
        assert cost(images_, targets).flops == cost.flops.subs(at) == counted
        assert substituted(peak_expression(graph, Copies.ALL), at) == peak_bytes(graph, Copies.ALL)(images_, targets)
    assert cost(3)(K=7).flops == cost(3, 7).flops
    assert cost(3)(K=7).peak == cost(3, 7).peak


def test_twice_the_images_cost_twice_the_operations_and_the_forward_pass_is_shared_by_targets():
    cost = explainer("vgg", "agf").cost()
    assert cost(8, 3).flops == 2 * cost(4, 3).flops
    assert cost(4, 6).flops < 2 * cost(4, 3).flops


def test_points_are_a_symbol_and_have_a_number():
    explaining = explainer("vgg", "integrated-gradients")
    cost, gradient = explaining.cost(), explainer("vgg", "gradient").cost(2, 3)
    assert POINTS in cost.flops.free_symbols
    assert cost.points == 5
    assert cost(2, 3).flops == cost(2, 3, 5).flops < cost(2, 3, 10).flops
    assert 5 < cost(2, 3).flops / gradient.flops < 7  # and once for the classes
    assert "S = 5 points" in str(cost)
    assert cost(64, 1).runs == 6
    assert cost(2, 1).runs == 2


def test_memory_is_that_of_the_pieces_that_the_runtime_takes():
    model = network("residual")
    whole = agf_fx.compile(model, images(1)).cost(64, 5)
    options = agf_fx.CompileOptions(memory_limit=2_000_000)
    explaining = agf_fx.compile(model, images(1), compile_options=options)
    cost, limits = explaining.cost(64, 5), explaining._captured().program.limits
    assert cost.piece == limits.largest_piece(64, 5) != (64, 5)
    assert cost.peak == limits.estimate(*cost.piece) + cost.result_bytes < whole.peak
    assert cost.peak - cost.result_bytes <= 2_000_000
    assert f"in pieces of {cost.piece[0]} images with {cost.piece[1]} targets each" in str(cost)
    assert cost.flops == whole.flops


def test_costs_are_those_of_the_precision():
    single, double = (
        agf_fx.compile(network("dense"), images(1), precision=precision).cost(4, 2) for precision in (None, "float64")
    )
    assert double.flops == single.flops
    assert double.image_bytes == 2 * single.image_bytes
    assert double.weight_bytes == single.weight_bytes  # the model stays as it is


def test_methods_that_search_and_methods_that_move_the_weights_have_a_cost():
    inside = explainer("vgg", "normgrad").cost(1, 1)
    model = network("vgg")
    moved = agf_fx.compile(model, images(1), method=agf_fx.meta("normgrad")).cost(2, 3)
    assert moved.flops > 6 * inside.flops
    searched = explainer("vgg", "meaningful-perturbation").cost()
    assert searched(1, 2).flops > 100 * explainer("vgg", "gradient").cost(1, 1).flops
    assert searched(2, 2, 10).flops < searched(2, 2).flops
    several = agf_fx.compile(model, images(1), method="deep-shap", options={"baseline": images(3)}).cost()
    assert several.points == 3
    assert several(1, 1).flops == 3 * several(1, 1, 1).flops


def test_rows_sum_up_to_the_whole():
    for method in METHODS:
        explaining = explainer("residual", method)
        for depth in (None, 1, 2):
            one = graph_cost(explaining.graph, depth)
            assert sympy.expand(sum(layer.flops for layer in one.layers) - one.flops) == 0
            assert sympy.expand(sum(layer.bytes for layer in one.layers) - one.bytes) == 0
            assert sum(layer.share for layer in one.layers) == pytest.approx(1)


def test_what_is_wrong_is_refused():
    with pytest.raises(InputError, match="image size is not known"):
        agf_fx.compile(network("vgg")).cost()
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(OptionsError, match=r"N is .*; give a whole number of 1 or more"):
            explainer("vgg", "gradient").cost(wrong)


def test_operations_of_the_users_own_are_said_not_to_be_counted():
    @torch.library.custom_op("costing::half", mutates_args=())
    def half(x: torch.Tensor) -> torch.Tensor:
        return x / 2

    half.register_fake(torch.empty_like)
    agf_fx.register_rule(torch.ops.costing.half.default, "pass-through", vjp=lambda site, gradient: (gradient / 2,))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Halved(half), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval()
    cost = agf_fx.compile(model, images(1)).cost(1, 1)
    assert cost.uncounted == ("costing.half",)
    assert "not counted, for want of a row: costing.half" in str(cost)
    assert cost.flops > 0


class Halved(nn.Module):
    def __init__(self, half):
        super().__init__()
        self.half = half

    def forward(self, x):
        return self.half(x)


def test_texts():
    cost = explainer("vgg", "agf").cost()
    assert "N, K" not in str(cost)
    assert "*K*N + " in str(cost)
    assert str(cost(2, 3)).splitlines()[0] == "cost of TinyVGG by agf, images f32[N, 3, 16, 16], N = 2, K = 3"
    assert repr(cost(2, 3)).startswith("Cost(TinyVGG by agf, images f32[N, 3, 16, 16], N=2, K=3: ")
    assert [in_words(value, "B") for value in (0, 999, 1000, 1_234_567, 5e9)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.23 MB",
        "5 GB",
    ]
    assert in_words(BATCH * 2, "B") == "2*N B"


def test_the_tool_compares_the_model_with_what_is_counted_and_allocated(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent.parent / "tools"), *sys.path])
    import cost as tool

    found = tool.measured("squeezenet1_1", "guided-backprop", 8, 2, 64)
    assert abs(found["flops_ratio"] - 1) <= tool.MOST_FLOPS
    assert abs(found["memory_ratio"] - 1) <= tool.MOST_MEMORY
    assert "| squeezenet1_1 | 1.00 of " in tool.table([found]) or "| squeezenet1_1 | 0." in tool.table([found])


# --- by operation, and drawn ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def costs():
    return agf_fx.compile(small_vgg(classes=4), torch.zeros(1, 3, 16, 16, dtype=torch.float64)).cost()


def test_bytes_alive_call_by_call_come_to_the_peak(costs):
    for images, targets in ((1, 1), (3, 1), (1, 4), (5, 2)):
        values = {BATCH: images, TARGETS: targets}
        of_nodes = max(substituted(row.live, values) for row in costs.nodes if row.part != "prepare")
        of_layers = max(substituted(row.live, values) for row in costs.layers)
        assert of_nodes == of_layers == substituted(costs.graph_peak, values)


def test_bytes_alive_by_hand():
    class Twice(nn.Module):
        def forward(self, x):
            a = x.exp()  # alive until b has read it
            b = a.sin()
            return (b + b).mean((2, 3))

    graph = agf_fx.capture(Twice().eval(), torch.zeros(1, 2, 4, 4)).graph
    one = 4 * 2 * 4 * 4 * BATCH
    assert list(live_expressions(graph, Copies.NOTHING).values()) == [one, 2 * one, 2 * one, one + 8 * BATCH]


CONVOLUTIONS = {
    "pictures": (nn.Conv2d(4, 8, 3, padding=1), (4, 6, 5), 8 * 30, 4 * 9 * 30),
    "signals": (nn.Conv1d(4, 2, 5, padding=2), (4, 9), 4 * 9, 4 * 5 * 9),
    "pointwise": (nn.Conv2d(4, 8, 1), (4, 6, 5), 8 * 30, 0),
    "groups": (nn.Conv2d(4, 8, 3, padding=1, groups=2), (4, 6, 5), 8 * 30, 2 * 9 * 30),
    "volumes": (nn.Conv3d(1, 2, 3, padding=1), (1, 3, 4, 5), 2 * 60, 27 * 60),
}
"""A convolution, an image, and the entries of the larger of what it reads and makes, and of its windows, if it writes
these out; with groups, of the windows of one of them or of the copies of all."""


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_what_convolutions_copy(name):
    convolution, shape, larger, windows = CONVOLUTIONS[name]
    graph = agf_fx.capture(convolution.eval(), torch.zeros(1, *shape)).graph
    (node,) = (node for node in graph.nodes if node.op == "call_function")
    pictures = len(shape) == 3
    own = 4 * convolution.weight.numel()
    made = 4 * node.meta["type"].entries
    wanted = {
        Copies.NOTHING: 0,
        Copies.ALL_BUT_PICTURES: 0 if pictures else larger,
        Copies.ALL: larger,
        Copies.WINDOWS: windows,
    }
    for copied, entries in wanted.items():
        assert live_expressions(graph, copied)[node.name] == made + own + 4 * entries * BATCH


def test_what_is_copied_depends_on_dtype_layout_and_device():
    assert copies(torch.float64, channels_last=True) is Copies.WINDOWS
    assert copies(torch.float32, channels_last=True) is Copies.ALL_BUT_PICTURES
    assert copies(torch.bfloat16, channels_last=False) is Copies.ALL
    assert copies(torch.float64, channels_last=False, on_cpu=False) is Copies.NOTHING


def test_rows_are_scaled_as_the_whole_is():
    cost = agf_fx.compile(small_vgg(classes=4).float(), torch.zeros(1, 3, 16, 16), precision="float64").cost()
    at = {BATCH: 2, TARGETS: 2}
    assert sum(row.bytes for row in cost.layers) == cost.bytes
    assert max(substituted(row.live, at) for row in cost.layers) == substituted(cost.graph_peak, at)


def test_the_figure_has_all_that_is_counted(costs):
    drawn = cost_figure(costs, images=3, targets=2)
    operations, moved, alive, *growth = drawn.axes
    at = {BATCH: 3, TARGETS: 2}
    for axes, whole in ((operations, costs.flops), (moved, costs.bytes)):
        assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(float(substituted(whole, at)))
    assert max(path.vertices[:, 1].max() for fill in alive.collections for path in fill.get_paths()) == float(
        substituted(costs.graph_peak, at)
    )
    assert [line.get_label() for line in growth[0].lines] == ["K = 1", "K = 2", "K = 5", "K = 10"]
    assert growth[0].lines[1].get_ydata()[0] == float(costs(N=1, K=2).flops)
    assert growth[1].lines[3].get_ydata()[-1] == float(costs(N=256, K=10).memory)


def test_a_figure_of_many_layers_puts_the_small_ones_together(costs, monkeypatch):
    monkeypatch.setattr("agf_fx.inspect.cost_figure.ROWS", 3)
    operations = cost_figure(costs).axes[0]
    names = [label.get_text() for label in operations.get_yticklabels()]
    assert len(names) == 4
    assert names[-1].endswith(" others")
    whole = float(substituted(costs.flops, {BATCH: 1, TARGETS: 1}))
    assert sum(bar.get_width() for bar in operations.patches) == pytest.approx(whole)


def test_a_figure_is_of_a_cost_in_symbols(costs, tmp_path):
    with pytest.raises(OptionsError, match="without numbers"):
        cost_figure(costs(N=1, K=1))
    with pytest.raises(OptionsError, match="cannot be written as 'xyz'"):
        save(costs, tmp_path / "costs.xyz")
    save(costs, tmp_path / "costs.svg")
    assert "bytes alive in a run" in (tmp_path / "costs.svg").read_text()


# --- by the size of the images --------------------------------------------------------------------------------------


def test_costs_are_expressions_in_the_size():
    model = small_vgg(classes=4).float()
    found = agf_fx.compile(model, torch.zeros(1, 3, 16, 16)).cost_by_size(8)
    assert set(found.symbols) == {"H", "W"}
    expected = agf_fx.compile(model, torch.zeros(1, 3, 24, 72)).cost(2, 3)
    at = found(N=2, K=3, H=24, W=72)
    assert (at.flops, at.product_flops, at.bytes) == (expected.flops, expected.product_flops, expected.bytes)
    assert "operations" in str(found)
    assert found.flops.has(found.symbols["H"] * found.symbols["W"])


def test_attention_grows_with_the_square_of_positions_and_signals_have_one_size():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.fc = nn.Conv1d(2, 8, 4, 4), nn.Linear(8, 3)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            y = self.patches(x).transpose(1, 2)
            return self.fc((y + self.attention(y, y, y, need_weights=False)[0]).mean(1))

    model = Attention().eval()
    found = agf_fx.compile(model, torch.zeros(1, 2, 16), method="attnlrp").cost_by_size(4)
    (size,) = found.symbols.values()
    assert sympy.degree(found.product_flops, size) == 2
    expected = agf_fx.compile(model, torch.zeros(1, 2, 60), method="attnlrp").cost(1, 2)
    assert found(N=1, K=2, W=60).product_flops == expected.product_flops


def test_costs_that_are_no_polynomial_and_wrong_sizes_are_refused():
    layers = nn.Conv2d(3, 4, 3, stride=3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    explainer = agf_fx.compile(nn.Sequential(*layers).eval(), torch.zeros(1, 3, 16, 16))
    latest = explainer.fingerprint
    with pytest.raises(OptionsError, match="no polynomial in the size at multiples of 4"):
        explainer.cost_by_size(4)
    assert explainer.fingerprint == latest
    found = explainer.cost_by_size(3)
    for given, message in (({"H": 4}, "multiples of 3"), ({"D": 3}, "some of N, K, S, H, W"), ({"N": 0}, "above 0")):
        with pytest.raises(OptionsError, match=message):
            found(**given)
    with pytest.raises(OptionsError, match="multiple is 0"):
        explainer.cost_by_size(0)
