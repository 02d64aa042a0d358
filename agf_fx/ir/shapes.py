"""Shapes and dtypes of an explanation graph: by table, and for other operations by running them on fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from agf_fx.ir.shape_rules import result_type
from agf_fx.ir.types import BATCH, TARGETS, TensorType, type_of, typed

if TYPE_CHECKING:
    from agf_fx.ir.graph import ExplanationGraph

_EXAMPLE = (3, 2)  # images and targets: sizes above 1 that differ, for 0 and 1 are special to symbolic shapes


def infer_types(explanation: ExplanationGraph) -> None:
    """Write ``meta["type"]`` on every node of ``explanation`` that has none."""
    fakes = _Fakes()
    types = {node.name: node.meta["type"] for node in explanation.canonical.graph.nodes if node.op == "placeholder"}
    types[explanation.canonical.images.name] = explanation.canonical.image_type
    types["target"] = TensorType((BATCH, TARGETS), torch.int64)
    if explanation.prepare:
        fakes.infer(explanation.prepare.graph, types)
        results = explanation.prepare.graph.output_node().args[0]
        types |= {name: node.meta["type"] for name, node in zip(explanation.prepared, results, strict=True)}
    fakes.infer(explanation.graph, types)


class _Fakes:
    """Fake tensors on the meta device, which share two symbolic sizes, the numbers of images and of targets."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode(shape_env=ShapeEnv())
        dynamic = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * 2)
        example = torch.empty(_EXAMPLE, device="meta")
        self.sizes = self.mode.from_tensor(example, symbolic_context=dynamic).shape
        self.numbers: dict[sympy.Expr, Any] = {}
        self.symbols = dict(zip((size.node.expr for size in self.sizes), (BATCH, TARGETS), strict=True))

    def infer(self, graph: fx.Graph, types: dict[str, Any]) -> None:
        """Type the nodes of ``graph``; ``types`` are those of its placeholders, by name."""
        values: dict[fx.Node, Any] = {}

        def value(node: fx.Node) -> Any:
            if node not in values:
                values[node] = self.of(node.meta["type"])
            return values[node]

        for node in graph.nodes:
            if node.op == "placeholder":
                node.meta["type"] = types[node.name]
            elif node.op == "call_function" and "type" not in node.meta:
                known = [typed(argument) for argument in node.args]
                node.meta["type"] = result_type(node.target, known) or self.run(node, value)

    def run(self, node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
        """The type of a call, by running it."""
        with self.mode, enable_python_dispatcher():  # composite operations in C++ do not all know symbolic sizes
            args, kwargs = fx.map_arg((node.args, node.kwargs), value)
            return type_of(node.target(*args, **kwargs), self.symbols)

    def of(self, kind: Any) -> Any:
        """A value of a type: a fake tensor, a tuple of them, or a symbolic number."""
        if isinstance(kind, TensorType):
            return torch.empty([self._size(size) for size in kind.shape], dtype=kind.dtype, device="meta")
        if isinstance(kind, tuple):
            return tuple(map(self.of, kind))
        return self._size(kind)

    def _size(self, size: int | sympy.Expr) -> Any:
        if isinstance(size, int):
            return size
        if size not in self.numbers:
            self.numbers[size] = sympy.lambdify((BATCH, TARGETS), size, modules="math")(*self.sizes)
        return self.numbers[size]
