"""The reverse driver, and its two uses: the eager interpreter on tensors, and emission of an explanation graph."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.ir.vocabulary import depends_on_images, operands
from agf_fx.methods.method import Method, rule_name
from agf_fx.rules.gradients import vjp
from agf_fx.rules.notation import current_label, scope
from agf_fx.rules.numerics import Value
from agf_fx.rules.site import Site

aten = torch.ops.aten


@dataclass(frozen=True)
class Streams:
    """The outcome of one reverse walk.

    Attributes:
        maps: heat maps (N, H, W).
        logits: the model's output (N, classes).
        gradient: canonical node name -> gradient at that node.
        relevance: canonical node name -> relevance at that node; none behind the head.
    """

    maps: Value
    logits: Value
    gradient: Mapping[str, Value]
    relevance: Mapping[str, Value]


def interpret(
    canonical: CanonicalGraph, method: Method, images: Tensor, target: Tensor, inputs: Mapping[str, Tensor]
) -> Streams:
    """Explain with plain tensors: the oracle of the emitted graph, which gives the same bits.

    Args:
        canonical: an analysed canonical graph.
        method: the method.
        images: (N, C, H, W).
        target: (N,) int64.
        inputs: placeholder name -> weight or constant.
    """
    values = dict(inputs) | {canonical.images.name: images}
    return _explain(canonical, method, values, target, lambda op, args: op(*args))


def emit(canonical: CanonicalGraph, method: Method) -> ExplanationGraph:
    """Emit the explanation graph ``(images, target, *weights, *constants) -> (maps, logits)``."""
    tracer = _Tracer()
    names = [node.name for node in canonical.graph.nodes if node.op == "placeholder"]
    names.insert(1, "target")
    values = {name: fx.Proxy(tracer.graph.placeholder(name), tracer) for name in names}
    streams = _explain(canonical, method, values, values["target"], tracer.call)
    for stream in (streams.gradient, streams.relevance):
        for name, proxy in stream.items():
            proxy.node.meta.setdefault("stream_of", []).append(name)
    tracer.graph.output((streams.maps.node, streams.logits.node))
    module = fx.GraphModule(torch.nn.Module(), tracer.graph, f"{canonical.name}_{method.name}")
    return ExplanationGraph(module, canonical, method.name)


def _explain(
    canonical: CanonicalGraph,
    method: Method,
    values: dict[str, Value],
    target: Value,
    call: Callable[[Callable[..., Any], tuple[Any, ...]], Value],
) -> Streams:
    sites: dict[fx.Node, Site] = {}
    for node in canonical.calls:
        args = fx.map_arg(node.args, lambda n: values[n.name])
        with scope(stream="forward", layer=node.meta["module"], symbol="y"):
            values[node.name] = call(node.target, args)
        sites[node] = Site(node, args, values[node.name])
    images, logits = values[canonical.images.name], values[canonical.logits.name]
    with scope(stream="gradient", rule=rule_name(method.initial_gradient)):
        seed = method.initial_gradient(logits, target)
    gradient, relevance = propagate(canonical, method, sites, images, seed)
    source = canonical.images.name
    with scope(stream="read-out", rule=rule_name(method.read_out)):
        maps = method.read_out(images, relevance.get(source), gradient[source], canonical.image_type.rank)
    return Streams(maps, logits, gradient, relevance)


def propagate(
    canonical: CanonicalGraph, method: Method, sites: Mapping[fx.Node, Site], images: Value, seed: Value
) -> tuple[dict[str, Value], dict[str, Value]]:
    """Walk the canonical graph backwards; return the gradient and the relevance at every node that has them."""
    gradients: dict[fx.Node, list[Value]] = defaultdict(list, {canonical.logits: [seed]})
    relevances: dict[fx.Node, list[Value]] = defaultdict(list)
    gradient: dict[str, Value] = {}
    relevance: dict[str, Value] = {}
    for node in reversed([canonical.images, *canonical.calls]):
        if node not in gradients:
            continue
        value, layer = (sites[node].y, node.meta["module"]) if node in sites else (images, "")
        with scope(stream="gradient", rule="chain_rule", layer=layer, symbol="∇", equation="∇x = fᵀ∇y  (eq. 5)"):
            g = gradient[node.name] = sum(gradients[node][1:], gradients[node][0])
            g_in = vjp(sites[node], g) if node in sites else ()
        phi = relevances[node][0] if relevances[node] else None
        if len(relevances[node]) > 1:
            with scope(stream="relevance", rule="fan_out", layer=layer):
                phi = method.fan_out(value, relevances[node])
        if phi is not None:
            relevance[node.name] = phi
        if node in sites:
            rule = method.rule_for(node)
            with scope(stream="relevance", rule=rule_name(rule), layer=layer):
                phi_in = rule(sites[node], phi, g, g_in)
            for operand, g_operand, phi_operand in zip(operands(node), g_in, phi_in, strict=True):
                if depends_on_images(operand):
                    gradients[operand].append(g_operand)
                    relevances[operand].extend([] if phi_operand is None else [phi_operand])
    return gradient, relevance


class _Tracer(fx.proxy.TracerBase):
    """Appends what rules compute to a graph, as ATen overloads labelled with their origin."""

    def __init__(self) -> None:
        self.graph = fx.Graph(tracer_cls=type(self))
        self.record_stack_traces = False

    def call(self, target: Callable[..., Any], args: tuple[Any, ...]) -> fx.Proxy:
        return self.create_proxy("call_function", target, args, {})

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any) -> fx.Node:
        label = current_label()
        target, args = _overload(target, args)
        stem = "_".join(
            part for part in (label.layer.replace(".", "_"), _ASCII.get(label.symbol, label.symbol)) if part
        )
        node = self.graph.create_node(kind, target, args, kwargs, name=stem or None)
        node.meta.update(label.as_meta())
        return node


_ASCII = {
    "y": "",
    "Φ": "Phi",
    "∇": "grad",
    "F_∇x": "F_grad",
    "∂ŷ_t/∂y": "seed",
    "∂y_t/∂y": "seed",
    "Grad-CAM": "gradcam",
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
    torch.clamp_max: aten.clamp_max.default,
    torch.clamp_min: aten.clamp_min.default,
    torch.exp: aten.exp.default,
    torch.flatten: aten.flatten.using_ints,
    torch.gather: aten.gather.default,
    torch.masked_fill: aten.masked_fill.Scalar,
    torch.matmul: aten.matmul.default,
    torch.mean: aten.mean.dim,
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
        overload = "Tensor" if isinstance(second, fx.Node) else "Scalar"
        return getattr(getattr(aten, _BINARY[target]), overload), (first, second)
    return _FUNCTIONS.get(target, target), args
