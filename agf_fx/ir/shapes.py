"""Shapes and dtypes of an explanation graph, by running it on fake tensors with symbolic N and K."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from agf_fx.ir.types import BATCH, TARGETS, Symbols, TensorType, type_of

if TYPE_CHECKING:
    from agf_fx.ir.graph import ExplanationGraph

_EXAMPLE = {BATCH: 3, TARGETS: 2}  # any sizes above 1 that differ: 0 and 1 are special to symbolic shapes


def infer_types(explanation: ExplanationGraph) -> None:
    """Write ``meta["type"]`` on every node of ``explanation``."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    types = {node.name: node.meta["type"] for node in explanation.canonical.graph.nodes if node.op == "placeholder"}
    fake_images = _fake(mode, explanation.canonical.image_type)
    targets = _fake(mode, TensorType((TARGETS,), torch.int64))
    with mode:
        fake_target = torch.empty(fake_images.shape[0], targets.shape[0], dtype=torch.int64, device="meta")
    symbols = {fake_images.shape[0].node.expr: BATCH, targets.shape[0].node.expr: TARGETS}
    with enable_python_dispatcher():  # composite operations in C++ do not all know symbolic sizes
        known = {}
        if explanation.prepare:
            taken = [node.name for node in explanation.prepare.graph.nodes if node.op == "placeholder"]
            values = _Recorder(explanation.prepare, symbols).run(*(_fake(mode, types[name]) for name in taken))
            known = dict(zip(explanation.prepared, values, strict=True))
        inputs = [known[name] if name in known else _fake(mode, types[name]) for name in explanation.inputs]
        _Recorder(explanation.module, symbols).run(fake_images, fake_target, *inputs)


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, symbols: Symbols) -> None:
        super().__init__(module)
        self.symbols = symbols

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta["type"] = type_of(value, self.symbols)
        return value


def _fake(mode: FakeTensorMode, kind: TensorType) -> torch.Tensor:
    shape = [size if isinstance(size, int) else _EXAMPLE[size] for size in kind.shape]
    dynamic = [DimDynamic.STATIC if isinstance(size, int) else DimDynamic.DYNAMIC for size in kind.shape]
    context = StatelessSymbolicContext(dynamic_sizes=dynamic)
    return mode.from_tensor(torch.empty(shape, dtype=kind.dtype, device="meta"), symbolic_context=context)
