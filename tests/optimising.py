"""What the tests of optimisations share: handmade graphs, and a network's graph before and after one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

import agf_fx
from agf_fx.ir import text
from agf_fx.ir.graph import ExplanationGraph
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.methods.method import Method
from agf_fx.options import AGFOptions
from agf_fx.pipeline import OPTIMISATIONS, lower, verify_step
from agf_fx.runtime.program import Program


def handmade(inputs: str, *calls: tuple, canonical: Any = None) -> ExplanationGraph:
    """A graph of calls ``(name, target, *args[, meta])``; strings among the arguments name earlier values.

    ``inputs`` are names divided by spaces, images and target first. The last call is the output.
    """
    graph, values = fx.Graph(), {}
    for name in inputs.split():
        values[name] = graph.placeholder(name)
    for name, target, *args in calls:
        meta = args.pop() if args and isinstance(args[-1], dict) else {}
        values[name] = graph.create_node("call_function", target, _resolved(tuple(args), values), {}, name=name)
        values[name].meta = {"stream": "relevance"} | meta
    graph.output((values[calls[-1][0]],))
    return ExplanationGraph(fx.GraphModule(nn.Module(), graph), canonical, "handmade")


def _resolved(value: Any, values: dict[str, fx.Node]) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_resolved(item, values) for item in value)
    return values[value] if isinstance(value, str) else value


def run(explanation: ExplanationGraph, *inputs: Tensor | None) -> Tensor:
    """The output of a handmade graph as it is now."""
    explanation.module.recompile()
    return explanation.module(*inputs)[0]


def lines(graph: fx.Graph) -> list[str]:
    """The calls as text, without inputs and output."""
    return [text.call(node) for node in graph.nodes if node.op == "call_function"]


@dataclass(frozen=True)
class Around:
    """A network's graph before and after one pass, and what either computes."""

    before: ExplanationGraph
    after: ExplanationGraph
    outputs_before: tuple[Tensor, Tensor]
    outputs_after: tuple[Tensor, Tensor]

    @property
    def difference(self) -> float:
        """The largest change of a map, relative to the largest entry."""
        a, b = self.outputs_before[0], self.outputs_after[0]
        assert a.abs().max() > 0
        return ((a - b).abs().max() / a.abs().max()).item()

    def count(self, target: Callable[..., Any]) -> tuple[int, int]:
        """How often ``target`` is called before and after."""
        return tuple(sum(node.target is target for node in e.graph.nodes) for e in (self.before, self.after))


def around(
    step: Callable[[ExplanationGraph], ExplanationGraph],
    model: nn.Module,
    size: int,
    options: AGFOptions | None = None,
    targets: Sequence[Sequence[int]] = ((0, 1), (2, -1)),
    prefix: int | None = None,
    method: Method | None = None,
) -> Around:
    """Run the pipeline up to ``step`` (its first place, or ``prefix``) without and with it, verified."""
    place = OPTIMISATIONS.index(step) if prefix is None else prefix
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    canonical = agf_fx.capture(model, images)
    method = method or attribution_guided_factorization(options or AGFOptions())
    before = lower(canonical, method, optimisations=OPTIMISATIONS[:place])
    after = lower(canonical, method, optimisations=OPTIMISATIONS[:place])
    verify_step("before", after)
    after = step(after)
    verify_step(step.__name__, after)
    outputs = []
    for explanation in (before, after):
        explanation.module.recompile()
        program = Program(canonical, explanation)
        outputs.append(program.run(images, torch.tensor(targets), program.inputs(model)))
    torch.testing.assert_close(outputs[1][1], outputs[0][1], rtol=1e-12, atol=1e-12)
    return Around(before, after, *outputs)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of each map (M, ...) with its counterpart: (M,)."""
    ranks = [values.flatten(1).argsort(1).argsort(1).double() for values in (a, b)]
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*ranks, strict=True)])
