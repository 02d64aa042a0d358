"""The tracer that rules emit into: what they compute becomes labelled ATen calls of a graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from agf_fx.errors import OptionsError
from agf_fx.rules.notation import current_label

aten = torch.ops.aten


class RuleTracer(fx.proxy.TracerBase):
    """Appends what rules compute to a graph, as ATen overloads labelled with their origin."""

    def __init__(self) -> None:
        self.graph = fx.Graph(tracer_cls=type(self))
        self.record_stack_traces = False

    def call(self, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Proxy:
        """Emit a call of a canonical operation."""
        return self.create_proxy("call_function", target, args, kwargs)

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any) -> fx.Node:
        """Append a node; every operation on a Proxy ends here."""
        label = current_label()
        if kind == "call_method":
            kind, target = "call_function", getattr(torch, target, target)
        target, args = _overload(target, args)
        if kind == "call_function" and not isinstance(target, torch._ops.OpOverload) and target is not operator.getitem:
            raise OptionsError(
                f"a rule or read-out calls {getattr(target, '__name__', target)}, which is no function that graphs are "
                "made of; call an operation of torch.ops.aten, such as torch.ops.aten.stack.default."
            )
        stem = "_".join(
            part for part in (label.layer.replace(".", "_"), _ASCII.get(label.symbol, label.symbol)) if part
        )
        node = self.graph.create_node(kind, target, args, kwargs, name=stem or None)
        node.meta.update(label.as_meta())
        return node


_ASCII = {
    "y": "",
    "y₀": "reference",
    "Φ": "Phi",
    "∇": "grad",
    "F_∇x": "F_grad",
    "∂ŷ_t/∂y": "seed",
    "∂y_t/∂y": "seed",
    "Grad-CAM": "gradcam",
    "t": "target",
}

_BINARY = {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.truediv: "div",
    operator.eq: "eq",
    operator.ne: "ne",
    operator.lt: "lt",
    operator.le: "le",
    operator.gt: "gt",
    operator.ge: "ge",
}

_FUNCTIONS: dict[Callable[..., Any], torch._ops.OpOverload] = {
    operator.neg: aten.neg.default,
    torch.abs: aten.abs.default,
    torch.amax: aten.amax.default,
    torch.amin: aten.amin.default,
    torch.bmm: aten.bmm.default,
    torch.clamp_max: aten.clamp_max.default,
    torch.clamp_min: aten.clamp_min.default,
    torch.exp: aten.exp.default,
    torch.flatten: aten.flatten.using_ints,
    torch.logical_and: aten.logical_and.default,
    torch.maximum: aten.maximum.default,
    torch.minimum: aten.minimum.default,
    torch.pow: aten.pow.Tensor_Scalar,
    torch.gather: aten.gather.default,
    torch.masked_fill: aten.masked_fill.Scalar,
    torch.matmul: aten.matmul.default,
    torch.mean: aten.mean.dim,
    torch.ones_like: aten.ones_like.default,
    torch.narrow: aten.narrow.default,
    torch.permute: aten.permute.default,
    torch.reciprocal: aten.reciprocal.default,
    torch.relu: aten.relu.default,
    torch.reshape: aten.reshape.default,
    torch.rsqrt: aten.rsqrt.default,
    torch.scatter: aten.scatter.value,
    torch.sigmoid: aten.sigmoid.default,
    torch.sign: aten.sign.default,
    torch.softmax: aten.softmax.int,
    torch.sqrt: aten.sqrt.default,
    torch.sum: aten.sum.dim_IntList,
    torch.transpose: aten.transpose.int,
    torch.unsqueeze: aten.unsqueeze.default,
    torch.where: aten.where.self,
    torch.zeros_like: aten.zeros_like.default,
}


def _overload(target: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Python operators and torch functions as the ATen overload they stand for; anything else as it is."""
    if target in _BINARY:
        first, second = args
        if not isinstance(first, fx.Node) and target in (operator.add, operator.mul):
            first, second = second, first
        if not isinstance(first, fx.Node):
            raise OptionsError(
                f"a rule or read-out computes {target.__name__}({first!r}, x), and graphs take a tensor first; write "
                f"-x + {first!r} for a difference, or {first!r} * torch.reciprocal(x) for a quotient."
            )
        overload = "Tensor" if isinstance(second, fx.Node) else "Scalar"
        return getattr(getattr(aten, _BINARY[target]), overload), (first, second)
    return _FUNCTIONS.get(target, target), args
