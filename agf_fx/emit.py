"""The reverse driver, and its two uses: the eager interpreter on tensors, and emission of an explanation graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.ir.types import carried_type
from agf_fx.ir.vocabulary import depends_on_images, operands
from agf_fx.methods.method import Method, rule_name
from agf_fx.rules.gradients import vjp
from agf_fx.rules.notation import scope
from agf_fx.rules.numerics import Value, division
from agf_fx.rules.site import Site
from agf_fx.rules.targets import (
    chosen_classes,
    class_of,
    mean_logits,
    position_weights,
    spread_gradient,
    weighted_logits,
)
from agf_fx.tracer import RuleTracer

aten = torch.ops.aten


@dataclass(frozen=True)
class Streams:
    """The outcome of one reverse walk.

    Attributes:
        maps: heat maps (N, K, H, W).
        logits: the model's output (N, classes).
        gradient: canonical node name -> gradient at that node, (K, N, ...).
        relevance: canonical node name -> relevance at that node, (K, N, ...); None behind the head.
        handed: canonical call name -> (gradients, relevances) that the call hands to its operands, in order.
    """

    maps: Value
    logits: Value
    gradient: Mapping[str, Value]
    relevance: Mapping[str, Value]
    handed: Mapping[str, tuple[tuple[Value, ...], tuple[Value, ...]]]


def interpret(
    canonical: CanonicalGraph, method: Method, images: Tensor, target: Tensor, inputs: Mapping[str, Tensor]
) -> Streams:
    """Explain with plain tensors: the oracle of the emitted graph, which gives the same bits.

    Args:
        canonical: an analysed canonical graph.
        method: the method.
        images: (N, C, H, W).
        target: (N, K) int64; a class, or -r for the class of rank r.
        inputs: placeholder name -> weight or constant.
    """
    values = dict(inputs) | {canonical.images.name: images}
    return _explain(canonical, method, values, target, lambda op, args, kwargs: op(*args, **kwargs))


def emit(canonical: CanonicalGraph, method: Method) -> ExplanationGraph:
    """Emit the explanation graph ``(images, target, *weights, *constants) -> (maps, logits)``.

    Shapes: images (N, C, H, W), target (N, K) int64, maps (N, K, H, W), logits (N, classes); N and K are free.
    """
    tracer = RuleTracer()
    names = [node.name for node in canonical.graph.nodes if node.op == "placeholder"]
    names.insert(1, "target")
    values = {name: fx.Proxy(tracer.graph.placeholder(name), tracer) for name in names}
    streams = _explain(canonical, method, values, values["target"], tracer.call)
    for node in canonical.calls:
        values[node.name].node.meta["value_of"] = node.name
    for stream in (streams.gradient, streams.relevance):
        for name, proxy in stream.items():
            if proxy is not None:
                proxy.node.meta.setdefault("stream_of", []).append(name)
    tracer.graph.output((streams.maps.node, streams.logits.node))
    module = fx.GraphModule(torch.nn.Module(), tracer.graph, f"{canonical.name}_{method.name}")
    return ExplanationGraph(module, canonical, method.name)


def _explain(
    canonical: CanonicalGraph,
    method: Method,
    values: dict[str, Value],
    target: Value,
    call: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Value],
) -> Streams:
    sites: dict[fx.Node, Site] = {}
    with scope(stream="gradient", rule="chosen_classes", symbol="K", equation="K = number of targets"):
        targets = call(aten.sym_size.int, (target, 1), {})
    for node in canonical.calls:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n.name])
        with scope(stream="forward", layer=node.meta["module"], site=node.name, symbol="y"):
            values[node.name] = call(node.target, args, kwargs)
        sites[node] = Site(node, args, values[node.name], targets, kwargs)
    images, logits = values[canonical.images.name], values[canonical.logits.name]
    with scope(stream="gradient"):
        seed = _seed(method, logits, target, targets, canonical.logits.meta["type"].sample_shape)
    with division(method.exact_division):
        walk = propagate(canonical, method, sites, images, seed)
    source = canonical.images.name
    with scope(stream="read-out", rule=rule_name(method.read_out)):
        streams = walk.relevance.get(source), walk.gradient[source]
        channels = method.channels_of(canonical)
        maps = method.read_out(images, *streams, canonical.image_type.rank, channels)
        with scope(symbol="map", equation="(K, N, ...) -> (N, K, ...)"):
            maps = torch.transpose(maps, 0, 1)
    return Streams(maps, logits, walk.gradient, walk.relevance, walk.handed)


def _seed(method: Method, logits: Value, target: Value, targets: Value, shape: tuple[int, ...]) -> Value:
    """The gradient at the logits, (K, N, *shape)."""
    initial = scope(rule=rule_name(method.initial_gradient))
    if len(shape) == 1:
        with scope(rule="chosen_classes"):
            classes = chosen_classes(logits, target)
        with initial:
            return method.initial_gradient(logits, classes)
    with scope(rule="chosen_classes"):
        classes = chosen_classes(mean_logits(logits), class_of(target, shape[0]))
        weights = position_weights(logits, target, shape)
    with initial:
        gradient = method.initial_gradient(weighted_logits(logits, weights), classes)
        return spread_gradient(gradient, weights, targets, shape)


@dataclass(frozen=True)
class Walk:
    """The values of a reverse walk; see `Streams`."""

    gradient: dict[str, Value] = field(default_factory=dict)
    relevance: dict[str, Value] = field(default_factory=dict)
    handed: dict[str, tuple[tuple[Value, ...], tuple[Value, ...]]] = field(default_factory=dict)


def propagate(
    canonical: CanonicalGraph, method: Method, sites: Mapping[fx.Node, Site], images: Value, seed: Value
) -> Walk:
    """Walk the canonical graph backwards, carrying both streams from the logits to the images."""
    walk = Walk()
    gradients: dict[fx.Node, list[Value]] = defaultdict(list, {canonical.logits: [seed]})
    relevances: dict[fx.Node, list[Value]] = defaultdict(list)
    for node in filter(gradients.__contains__, reversed(canonical.calls)):
        site = sites[node]
        origin = {"layer": node.meta["module"], "site": node.name}
        with scope(stream="gradient", rule="chain_rule", symbol="∇", equation="∇x = fᵀ∇y  (eq. 5)", **origin):
            g = walk.gradient[node.name] = _sum(gradients[node])
            g_in = vjp(site, g)
        with scope(stream="relevance", rule="fan_out", **origin):
            phi = walk.relevance[node.name] = _merge(method, node, site.y, relevances[node])
        rule = method.rule_for(node) if phi is not None or facts(node).head else None
        with scope(stream="relevance", rule=rule_name(rule), **origin):
            phi_in = rule(site, phi, g, g_in) if rule else (None,) * len(g_in)
        walk.handed[node.name] = g_in, phi_in
        for operand, g_operand, phi_operand in zip(operands(node), g_in, phi_in, strict=True):
            if depends_on_images(operand):
                gradients[operand].append(_like(operand, node, g_operand))
                relevances[operand].append(_like(operand, node, phi_operand))
    source = canonical.images
    with scope(stream="gradient", rule="chain_rule", symbol="∇"):
        walk.gradient[source.name] = _sum(gradients[source])
    with scope(stream="relevance", rule="fan_out"):
        walk.relevance[source.name] = _merge(method, source, images, relevances[source])
    return walk


def _like(operand: fx.Node, node: fx.Node, message: Value | None) -> Value | None:
    """What a call hands to an operand, in the operand's dtype: PyTorch promotes where a call mixes floating ones."""
    own, wanted = carried_type(node).dtype, carried_type(operand).dtype
    if message is None or own == wanted or not (own.is_floating_point and wanted.is_floating_point):
        return message
    return message if node.target is aten.to.dtype else aten.to.dtype(message, wanted)


def _sum(values: list[Value]) -> Value:
    return sum(values[1:], values[0])


def _merge(method: Method, node: fx.Node, x: Value, contributions: list[Value | None]) -> Value | None:
    """The relevance of a value from what its readers hand back; None where none of them does."""
    given = [phi for phi in contributions if phi is not None]
    if len(given) < 2:
        return given[0] if given else None
    return method.fan_out(x, given, carried_type(node).sample_dims)
