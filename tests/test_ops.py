"""Every operation of the vocabulary, from capture to explanation graph, against autograd and dense oracles."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import oracles
import pytest
import torch
from cases import DTYPE, HEIGHT, WIDTH, Classifier, Row
from emission import weights
from rows import ROWS
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from agf_fx.emit import Streams, interpret
from agf_fx.frontend.capture import capture
from agf_fx.ir import serial
from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.ir.operations import storable
from agf_fx.ir.text import op_name
from agf_fx.ir.vocabulary import TRANSPOSED_CONVOLUTIONS, Family, family_of, operands
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.options import AGFOptions
from agf_fx.pipeline import lower, verify_step
from agf_fx.rules.register import _BUILT_IN
from agf_fx.rules.targets import chosen_classes
from agf_fx.runtime.program import Program

aten = torch.ops.aten
torch.set_num_threads(1)  # tensors are tiny: threads would only wait for each other

METHOD = attribution_guided_factorization(AGFOptions())
TARGET = torch.tensor([[0, 1], [2, 0], [1, -1]])  # (images, targets)
TARGETS = TARGET.shape[1]


class Sum(nn.Module):
    """The sum of the logits of one classifier per row, so that one capture serves all rows of an operation."""

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(map(Classifier, rows))

    def forward(self, images: Tensor) -> Tensor:
        first, *others = [branch(images) for branch in self.branches]
        return sum(others, first)


@dataclass(frozen=True)
class Run:
    """All rows of one operation, captured, compiled and run on three images with two targets each."""

    model: Sum
    images: Tensor

    @cached_property
    def canonical(self) -> CanonicalGraph:
        return capture(self.model, self.images[:1])

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """What the graph takes besides images, by placeholder name, in order."""
        return weights(self.canonical, self.model)

    @cached_property
    def values(self) -> dict[fx.Node, Tensor]:
        """The value of every canonical node, by torch.fx's own interpreter."""
        return self.canonical.forward(self.images, self.inputs)

    @cached_property
    def explanation(self) -> ExplanationGraph:
        """As it is emitted."""
        return lower(self.canonical, METHOD, verify_step, optimisations=())

    @cached_property
    def streams(self) -> Streams:
        return self.interpret(TARGET)

    def interpret(self, target: Tensor, images: Tensor | None = None) -> Streams:
        assert self.explanation  # which has analysed the canonical graph
        return interpret(self.canonical, METHOD, self.images if images is None else images, target, self.inputs)

    @property
    def classes(self) -> Tensor:
        """The classes that are explained, (targets, images)."""
        return chosen_classes(self.streams.logits, TARGET)

    def calls(self, row: Row, module: str, op: Callable[..., Any]) -> list[fx.Node]:
        """The calls of ``op`` that stem from a module, or from modules inside it, of a row's classifier."""
        path = f"branches.{rows_of(row.op).index(row)}.{module}"
        return [n for n in self.canonical.calls if n.target is op and f"{n.meta['module']}.".startswith(f"{path}.")]

    def branch(self, row: Row) -> Classifier:
        return self.model.branches[rows_of(row.op).index(row)]


def rows_of(op: Callable[..., Any]) -> list[Row]:
    return [row for row in ROWS if row.op is op]


@cache
def run(op: Callable[..., Any]) -> Run:
    torch.manual_seed(0)
    model = Sum(rows_of(op)).to(DTYPE).eval()
    return Run(model, torch.randn(len(TARGET), 3, HEIGHT, WIDTH, dtype=DTYPE))


each_op = pytest.mark.parametrize("op", dict.fromkeys(row.op for row in ROWS), ids=op_name)


def each_row(rows: Sequence[Row]) -> Callable:
    return pytest.mark.parametrize("row", rows, ids=lambda row: f"{op_name(row.op)}: {row.label}")


def has_relevance(row: Row) -> bool:
    return not row.behind_head and not row.on_gate and row.family is not Family.GRADIENT_ONLY


def assert_equal(actual: Tensor, expected: Tensor, rtol: float = 1e-9) -> None:
    """Up to rounding, and not merely because both are 0."""
    assert expected.abs().max() > 0
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol / 100)


def test_every_built_in_operation_has_a_row():
    assert not _BUILT_IN - {row.op for row in ROWS}


@each_row(ROWS)
def test_operation_occurs(row):
    nodes = run(row.op).calls(row, "op", row.op)
    assert [family_of(node) for node in nodes] == [row.family] * row.times


@each_op
def test_forward_is_the_model(op):
    torch.testing.assert_close(run(op).streams.logits, run(op).model(run(op).images), rtol=0, atol=1e-12)


@each_row(ROWS)
def test_gradient_is_autograd(row):
    case = run(row.op)
    seed = METHOD.stream("gradient").seed(case.streams.logits, case.classes)
    images = case.images.clone().requires_grad_()
    logits = case.branch(row)(images)
    stems = case.calls(row, "stems", aten.conv2d.default)
    assert len(stems) == row.signals
    for k, found in enumerate(sum(case.streams.handed["gradient"][stem.name][0] for stem in stems)):
        (expected,) = torch.autograd.grad(logits, images, seed[k], retain_graph=True)
        assert_equal(found, expected)


@each_row([row for row in ROWS if (row.times == 1 or row.family is Family.PRODUCT) and has_relevance(row)])
def test_relevance_is_the_oracle(row):
    case = run(row.op)
    nodes = case.calls(row, "op", row.op)
    for k in range(TARGETS):
        for operand, expected in expected_relevance(case, nodes, row.family, k).items():
            assert_equal(case.streams.relevance[operand.name][k], expected, row.rtol)


@each_row([row for row in ROWS if row.family in (Family.PRODUCT, Family.MERGE)])
def test_gate_gets_no_relevance(row):
    case = run(row.op)
    assert case.streams
    for node in case.calls(row, "op", row.op):
        gate = None if row.gate is None else operands(node)[row.gate]
        assert facts(node).gate == (gate and gate.name)
        handed = [phi is not None for phi in case.streams.handed["relevance"][node.name]]
        assert handed == [operand is not gate for operand in operands(node)]
        if gate and len(gate.users) == 1:
            assert gate.name not in case.streams.relevance


@each_row([row for row in ROWS if row.on_gate or row.family is Family.GRADIENT_ONLY])
def test_relevance_does_not_reach_what_makes_a_gate(row):
    case = run(row.op)
    for node in case.calls(row, "op", row.op):
        assert node.name not in case.streams.relevance
        assert case.streams.gradient[node.name].abs().max() > 0


@each_row([row for row in ROWS if row.family is Family.DATA_MOVEMENT and not row.behind_head])
def test_relevance_moves_as_the_layer_does(row):
    """However many operations the layer was written with."""
    case = run(row.op)
    (head,) = case.calls(row, "head", aten.linear.default)
    stems = case.calls(row, "stems", aten.conv2d.default)
    signals = [case.values[stem] for stem in stems]
    layer = case.branch(row).op
    for k in range(TARGETS):
        phi = case.streams.relevance[head.args[0].name][k]
        moved = oracles.transposed_jacobian(lambda *x: layer(*x).flatten(1), signals, phi)
        for stem, x, expected in zip(stems, signals, moved, strict=True):
            readers = [reader for reader in stem.users if reader.name in case.streams.handed["relevance"]]
            several = sum(operands(reader).count(stem) for reader in readers) > 1
            expected = oracles.fan_out(x, [expected]) if several else expected
            assert_equal(case.streams.relevance[stem.name][k], expected, row.rtol)


@each_row([row for row in ROWS if row.behind_head])
def test_relevance_starts_before_the_tail(row):
    case = run(row.op)
    (tail,), (head,) = case.calls(row, "op", row.op), case.calls(row, "head", aten.linear.default)
    assert not {tail.name, head.name} & case.streams.relevance.keys()
    x = case.values[head.args[0]].clone().requires_grad_()
    others = (case.streams.logits - case.branch(row)(case.images)).detach()
    logits = others + case.branch(row).op(case.branch(row).head(x))
    for k, classes in enumerate(case.classes):
        (g,) = torch.autograd.grad(sum(map(oracles.softened_target, logits, classes)), x, retain_graph=True)
        assert_equal(case.streams.relevance[head.args[0].name][k], (x * g).detach())


@each_op
def test_emitted_graph_gives_the_same_bits(op):
    case = run(op)
    maps, logits = case.explanation.module(case.images, TARGET, *case.inputs.values())
    assert torch.equal(maps, case.streams.maps)
    assert torch.equal(logits, case.streams.logits)


@each_op
def test_optimised_graph_gives_the_same_maps(op):
    case = run(op)
    program = Program(case.canonical, lower(case.canonical, METHOD, verify_step))
    maps, logits = program.run(case.images, TARGET, program.inputs(case.model))
    assert_equal(maps, case.streams.maps)
    assert_equal(logits, case.streams.logits)


@each_op
def test_targets_do_not_see_each_other(op):
    case = run(op)
    together = case.streams
    for k in range(TARGETS):
        alone = case.interpret(TARGET[:, k : k + 1])
        for name in together.gradient:
            assert_same(together.gradient[name][k], alone.gradient[name][0])
            if together.relevance.get(name) is not None:
                assert_same(together.relevance[name][k], alone.relevance[name][0])
        assert_same(together.maps[:, k], alone.maps[:, 0])


@each_op
def test_an_image_alone_has_the_same_maps(op):
    """With several targets, for which the image is repeated without copying it."""
    case = run(op)
    alone = case.interpret(TARGET[:1], case.images[:1])
    assert_same(alone.maps, case.streams.maps[:1])
    name = case.canonical.images.name
    assert_same(alone.gradient[name], case.streams.gradient[name][:, :1])


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Up to 1e-12 of the largest entry; where all entries would be 0 but for rounding, up to that."""
    assert (actual - expected).abs().max() <= 1e-12 * expected.abs().max() + 1e-16


# The oracle of a call: what the readers of each signal hand back, and their fan-out where there are several.


def expected_relevance(case: Run, nodes: Sequence[fx.Node], family: Family, k: int) -> dict[fx.Node, Tensor]:
    """For the k-th target, at the signals that ``nodes`` read."""
    contributions: dict[fx.Node, list[Tensor]] = defaultdict(list)
    for node in nodes:
        function, sources = as_function(case, node)
        for source, part in zip(sources, handed_back(case, node, family, k, function, sources), strict=True):
            if part is not None:
                contributions[source].append(part)
    return {
        source: parts[0] if len(parts) == 1 else oracles.fan_out(case.values[source], parts)
        for source, parts in contributions.items()
    }


def handed_back(
    case: Run, node: fx.Node, family: Family, k: int, function: Callable[..., Tensor], sources: Sequence[fx.Node]
) -> list[Tensor | None]:
    x, phi = [case.values[source] for source in sources], case.streams.relevance[node.name][k]
    match family:
        case Family.PRODUCT | Family.MERGE if facts(node).gate:
            return [None if source.name == facts(node).gate else phi for source in sources]
        case Family.PRODUCT:
            return oracles.halves(function, x, phi)
        case Family.SOFTMAX:
            return [oracles.softmax(function, x[0], phi)]
        case Family.PASS_THROUGH:
            return [phi]
        case Family.DATA_MOVEMENT:
            return oracles.transposed_jacobian(function, x, phi)
        case Family.MERGE if facts(node).open_merge:
            return oracles.by_size(x, phi)
        case Family.JOINT:
            return oracles.by_influence(function, x, phi)
        case Family.SOFT_MAXIMUM:
            return oracles.transposed_jacobian(function, x, phi)
        case Family.PROPORTIONAL | Family.SELECTION | Family.MERGE:
            return oracles.proportional(function, x, phi)
        case Family.AVERAGE:
            return oracles.average(function, x[0], phi)
        case Family.LINEAR if node.target is aten.matmul.default:
            layer = oracles.matrices(case.values[node.args[1]], x[0].shape)
            return [oracles.absolute_influence(layer, x[0], phi)]
        case Family.LINEAR:
            layer = oracles.linear(case.values[node.args[1]], x[0].shape[1:])
            return [oracles.each(lambda *sample: oracles.absolute_influence(layer, *sample), x[0], phi)]
        case Family.CONVOLUTION:
            layer = convolution(case, node, x[0])
            if facts(node).pointwise:
                return [oracles.each(lambda *sample: oracles.absolute_influence(layer, *sample), x[0], phi)]
            g = case.streams.gradient[node.name][k]
            return [oracles.each(lambda *s: oracles.convolution_step(layer, *s, AGFOptions()), x[0], phi, g)]
    raise AssertionError(f"no oracle for {family}")


def convolution(case: Run, node: fx.Node, x: Tensor) -> oracles.Layer:
    transposed = node.target in TRANSPOSED_CONVOLUTIONS
    names = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
    geometry = dict(zip(("stride", "padding", *names), node.args[3:], strict=True))
    return oracles.convolution(case.values[node.args[1]], x.shape[1:], transposed, **geometry)


def as_function(case: Run, node: fx.Node) -> tuple[Callable[..., Tensor], list[fx.Node]]:
    """The call as a function of its signals alone, and the signals, one used twice twice."""
    leaves, spec = pytree.tree_flatten(node.args)
    signals = [i for i, leaf in enumerate(leaves) if isinstance(leaf, fx.Node) and leaf.meta["depends_on_images"]]

    def function(*values: Tensor) -> Tensor:
        given = dict(zip(signals, values, strict=True))
        found = [given.get(i, case.values.get(leaf, leaf)) for i, leaf in enumerate(leaves)]
        output = node.target(*pytree.tree_unflatten(found, spec))
        return output[0] if isinstance(output, tuple) else output

    return function, [leaves[i] for i in signals]


@each_op
def test_what_is_emitted_can_be_stored_and_read_back(op):
    """If this fails for a new operation, add it to ``agf_fx.ir.operations``."""
    explanation, canonical = run(op).explanation, run(op).canonical
    calls = [node for graph in (explanation, canonical) for node in graph.graph.nodes if node.op == "call_function"]
    assert not {op_name(node.target) for node in calls if not storable(node.target)}
    data, constants = serial.write_canonical(canonical)
    assert str(serial.read_canonical(json.loads(json.dumps(data)), constants)) == str(canonical)
    data = serial.write_explanation(explanation)
    found = serial.read_explanation(json.loads(json.dumps(data)), canonical)
    assert [node.format_node() for node in found.graph.nodes] == [
        node.format_node() for node in explanation.graph.nodes
    ]
