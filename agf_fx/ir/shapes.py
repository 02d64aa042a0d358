"""Shapes and dtypes of an explanation graph, by running it on fake tensors with a symbolic batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from agf_fx.ir.types import TensorType, type_of

if TYPE_CHECKING:
    from agf_fx.ir.graph import ExplanationGraph

_EXAMPLE_BATCH = 3  # any size above 1: sizes 0 and 1 are special to symbolic shapes


def infer_types(explanation: ExplanationGraph) -> None:
    """Write ``meta["type"]`` on every node of ``explanation``."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    images, _, *rest = [node for node in explanation.graph.nodes if node.op == "placeholder"]
    types = {node.name: node.meta["type"] for node in explanation.canonical.graph.nodes if node.op == "placeholder"}
    fake_images = _fake(mode, types[images.name])
    with mode:
        fake_target = torch.empty(fake_images.shape[0], dtype=torch.int64, device="meta")
    fake_weights = [_fake(mode, types[node.name]) for node in rest]
    batch = fake_images.shape[0].node.expr
    with enable_python_dispatcher():  # composite operations in C++ do not all know symbolic sizes
        _Recorder(explanation.module, batch).run(fake_images, fake_target, *fake_weights)


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, batch: Any) -> None:
        super().__init__(module)
        self.batch = batch

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta["type"] = type_of(value, self.batch)
        return value


def _fake(mode: FakeTensorMode, kind: TensorType) -> torch.Tensor:
    shape = [size if isinstance(size, int) else _EXAMPLE_BATCH for size in kind.shape]
    dynamic = [DimDynamic.STATIC if isinstance(size, int) else DimDynamic.DYNAMIC for size in kind.shape]
    context = StatelessSymbolicContext(dynamic_sizes=dynamic)
    return mode.from_tensor(torch.empty(shape, dtype=kind.dtype, device="meta"), symbolic_context=context)
