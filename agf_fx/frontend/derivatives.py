"""Vector-Jacobian products of single calls, captured from PyTorch's autograd as graphs."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from agf_fx.frontend.batch_free import free_of_batch
from agf_fx.frontend.calls import Call, Unfit
from agf_fx.ir.captured import CapturedVjp
from agf_fx.ir.types import BATCH, TensorType, carried_type, type_of


def captured_vjp(call: Call, device: torch.device) -> CapturedVjp:
    """Autograd's products of a call, on fake tensors.

    Raises:
        Unfit: there are none, or they depend on the batch size in a way that has no form for any number of samples.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv())
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
    size = mode.from_tensor(torch.empty(5, device="meta"), symbolic_context=context).shape[0]

    def fake(kind: Any) -> Any:
        if isinstance(kind, TensorType):
            return torch.empty([scaled(extent, size) for extent in kind.shape], dtype=kind.dtype, device=device)
        return scaled(kind, size)

    try:
        with mode, enable_python_dispatcher():
            values = [fake(kind) for kind in (*(node.meta["type"] for node in call.tensors), carried_type(call.node))]
            graph = make_fx(call.gradients)(*values).graph
            if any(_mutates(node) for node in graph.nodes):
                captured = fx.GraphModule(nn.Module(), graph)
                graph = make_fx(functionalize(captured, remove="mutations"))(*values).graph
    except Unfit:
        raise
    except Exception as error:  # whatever an operation, or its derivative, raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise Unfit(f"PyTorch finds no derivative of it ({reason}).") from error
    _type(graph, {size.node.expr: BATCH})
    free_of_batch(graph)
    return CapturedVjp(graph, call.operands, _entrywise(graph))


def scaled(extent: int | sympy.Expr, batch: Any) -> Any:
    """An extent, which may be an expression in N, for a batch size."""
    return extent if isinstance(extent, int) else sympy.lambdify(BATCH, extent, modules="math")(batch)


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _type(graph: fx.Graph, symbols: dict[sympy.Expr, sympy.Expr]) -> None:
    """Write types, and which values depend on the gradient, the last placeholder, other than by their size."""
    gradient = graph.find_nodes(op="placeholder")[-1]
    for node in graph.nodes:
        if node.op != "output":
            kind = type_of(node.meta.get("val"), symbols)
            sources = [source for source in node.all_input_nodes if not isinstance(source.meta["type"], sympy.Expr)]
            per_target = node is gradient or any(source.meta["per_target"] for source in sources)
            node.meta = {"type": kind, "per_target": per_target and not isinstance(kind, sympy.Expr)}


def _entrywise(graph: fx.Graph) -> bool:
    """Whether gradients may have a dimension more in front in all that depends on them."""
    return all(
        map(_broadcasts, (node for node in graph.nodes if node.op == "call_function" and node.meta["per_target"]))
    )


def _broadcasts(node: fx.Node) -> bool:
    if torch.Tag.pointwise not in getattr(node.target, "tags", ()) or node.target._schema.name.endswith("_backward"):
        return False
    ranks = [(source.meta["per_target"], source.meta["type"].rank) for source in node.all_input_nodes]
    of_targets = {rank for per_target, rank in ranks if per_target}
    return len(of_targets) == 1 and all(rank <= max(of_targets) for _, rank in ranks)
