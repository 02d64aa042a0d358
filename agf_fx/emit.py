"""The reverse driver, and its two uses: the eager interpreter on tensors, and emission of an explanation graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from agf_fx.errors import AgfFxError, OptionsError
from agf_fx.ir.graph import BASELINE, CanonicalGraph, ExplanationGraph, LayerOutput, RuleNote, class_name
from agf_fx.ir.layers import output_of
from agf_fx.ir.reach import calls_on_images, counts_images_alone
from agf_fx.ir.types import TensorType, carried_type
from agf_fx.ir.vocabulary import depends_on_images, operands
from agf_fx.methods.method import Method, Stream, Trace
from agf_fx.rules.gradients import chain_rule
from agf_fx.rules.notation import scope
from agf_fx.rules.numerics import Value, dividing
from agf_fx.rules.rule import Rule
from agf_fx.rules.site import GRADIENT, RELEVANCE, Sent, Site
from agf_fx.rules.targets import (
    chosen_classes,
    class_of,
    mean_logits,
    position_weights,
    positions_looked_at,
    spread_gradient,
    spread_relevance,
    weighted_logits,
)
from agf_fx.tracer import RuleTracer

aten = torch.ops.aten

Call = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Value]
"""Makes, or emits, one call of an operation."""


@dataclass(frozen=True)
class Streams:
    """The outcome of one reverse walk.

    Attributes:
        maps: heat maps (N, K, H, W).
        logits: the model's output (N, classes).
        messages: stream name -> canonical node name -> what the stream has there, (K, N, ...).
        handed: stream name -> canonical call name -> what the call hands to its operands, in order.
        rules: stream name -> canonical call name -> the rule that did.
    """

    maps: Value
    logits: Value
    messages: Mapping[str, Mapping[str, Value]]
    handed: Mapping[str, Mapping[str, Sequence[Value | None]]]
    rules: Mapping[str, Mapping[str, Rule]]

    @property
    def gradient(self) -> Mapping[str, Value]:
        """Canonical node name -> gradient, of methods that have one."""
        return self.messages[GRADIENT]

    @property
    def relevance(self) -> Mapping[str, Value]:
        """Canonical node name -> relevance, of methods that have it."""
        return self.messages[RELEVANCE]


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


def emit(canonical: CanonicalGraph, method: Method, layers: Sequence[LayerOutput] = ()) -> ExplanationGraph:
    """Emit the explanation graph ``(images, target, *weights, *constants) -> (maps, logits, *layers)``.

    Shapes: images (N, C, H, W), target (N, K) int64, maps (N, K, H, W), logits (N, classes); N and K are free.

    Raises:
        OptionsError: the model has no such layer, or the method no such quantity there.
    """
    tracer = RuleTracer()
    names = [node.name for node in canonical.graph.nodes if node.op == "placeholder"]
    names.insert(1, "target")
    values = {name: fx.Proxy(tracer.graph.placeholder(name), tracer) for name in names}
    streams = _explain(canonical, method, values, values["target"], tracer.call)
    for node in canonical.calls:
        values[node.name].node.meta["value_of"] = node.name
    for messages in streams.messages.values():
        for name, proxy in messages.items():
            proxy.node.meta.setdefault("stream_of", []).append(name)
    further = [_at_layer(canonical, streams, values, wanted).node for wanted in layers]
    tracer.graph.output((streams.maps.node, streams.logits.node, *further))
    module = fx.GraphModule(torch.nn.Module(), tracer.graph, class_name(canonical.name, method.name))
    return ExplanationGraph(
        module,
        canonical,
        method.name,
        faithful=_faithful(streams),
        layer_outputs=tuple(layers),
        rules={stream: {name: _note(rule) for name, rule in of.items()} for stream, of in streams.rules.items()},
    )


def _note(rule: Rule) -> RuleNote:
    return RuleNote(str(rule), rule.symbol, rule.equation, str(rule.promised), rule.source)


def _at_layer(canonical: CanonicalGraph, streams: Streams, values: Mapping[str, Value], wanted: LayerOutput) -> Value:
    """A quantity at the output of a layer: (N, K, ...), or a value (N, ...)."""
    node = output_of(canonical, wanted.layer)
    with scope(stream="read-out", rule="layer", layer=wanted.layer, symbol=wanted.quantity):
        if wanted.quantity == "value":
            return values[node.name]
        found = streams.messages.get(wanted.quantity, {}).get(node.name)
        if found is None:
            raise OptionsError(
                f"there is no {wanted.quantity} at the output of layer {wanted.layer!r} of {canonical.name}: "
                + _why_none(streams, wanted.quantity)
            )
        return torch.transpose(found, 0, 1)


def _why_none(streams: Streams, quantity: str) -> str:
    if quantity not in streams.messages:
        return f"the method has {' and '.join(streams.messages)} only."
    return (
        "none reaches it. Gates and other values that only scale a signal have none, and relevance of AGF starts in "
        "front of the last layer; name a layer before that."
    )


def _faithful(streams: Streams) -> frozenset[str]:
    """The calls at which every rule but the chain rule is faithful, and the gradient is autograd's."""
    plain = streams.rules.get(GRADIENT, {})
    if any(rule.function is not chain_rule.function for rule in plain.values()):
        return frozenset()
    others = [rules for stream, rules in streams.rules.items() if stream != GRADIENT]
    return frozenset(name for rules in others for name in rules if all(r[name].faithful for r in others if name in r))


def _explain(
    canonical: CanonicalGraph,
    method: Method,
    values: dict[str, Value],
    target: Value,
    call: Call,
) -> Streams:
    with scope(stream="gradient", rule="chosen_classes", symbol="K", equation="K = number of targets"):
        targets = call(aten.sym_size.int, (target, 1), {})
    sites = _forward(canonical.calls, values, targets, call, scope(stream="forward", symbol="y"))
    if method.reference:
        seen = {**values, canonical.images.name: _baseline(canonical, values, call)}
        label = scope(stream="reference", symbol="y₀")
        references = _forward(calls_on_images(canonical), seen, targets, call, label)
        sites = {node: replace(site, reference=references.get(node)) for node, site in sites.items()}
    logits = values[canonical.logits.name]
    seeds = {}
    for stream in method.streams:
        if stream.seed is not None:
            with scope(stream=stream.name):
                seeds[stream.name] = _seed(stream, canonical.logits, logits, target, targets)
    walk = propagate(canonical, method, sites, values, seeds)
    with scope(stream="read-out", rule=name_of(method.read_out)):
        maps = method.read_out(Trace(canonical, values, walk.messages, method.channels_of(canonical), targets))
        with scope(symbol="map", equation="(K, N, ...) -> (N, K, ...)"):
            maps = torch.transpose(maps, 0, 1)
    return Streams(maps, logits, walk.messages, walk.handed, walk.rules)


def _forward(
    calls: Sequence[fx.Node], values: dict[str, Value], targets: Value, call: Call, label: AbstractContextManager[None]
) -> dict[fx.Node, Site]:
    """Run calls of the model, and keep their values."""
    sites: dict[fx.Node, Site] = {}
    with label:
        for node in calls:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n.name])
            with scope(layer=node.meta["module"], site=node.name):
                values[node.name] = call(node.target, args, kwargs)
            beside = {role: values[name] for role, name in node.meta.get("beside", {}).items()}
            sites[node] = Site(node, args, values[node.name], targets, kwargs, beside=beside)
    return sites


def _baseline(canonical: CanonicalGraph, values: Mapping[str, Value], call: Call) -> Value:
    """What the network sees in the place of the images: one baseline, or one for each image.

    One is enough where its values broadcast to those of the images, and what it makes of them is prepared with the
    weights. They do not where images are counted together with something else, as windows are.
    """
    baseline = values[BASELINE]
    if counts_images_alone(canonical):
        return baseline
    with scope(stream="reference", symbol="x₀", equation="one baseline for each image"):
        images = call(aten.sym_size.int, (values[canonical.images.name], 0), {})
        return call(aten.expand.default, (baseline, [images, *[-1] * (canonical.image_type.rank - 1)]), {})


def _seed(stream: Stream, node: fx.Node, logits: Value, target: Value, targets: Value) -> Value:
    """What a stream starts with at the logits, ``node``: (K, N, *shape).

    Of outputs with positions, a mean over these is explained, or one of them. The mean is a layer like any other: it
    hands a gradient back by the chain rule, and relevance as the stream's rule of averages does.
    """
    seed, shape = stream.seed, node.meta["type"].sample_shape
    initial = scope(rule=name_of(seed))
    if len(shape) == 1:
        with scope(rule="chosen_classes"):
            classes = chosen_classes(logits, target)
        with initial:
            return seed(logits, classes)
    with scope(rule="chosen_classes"):
        classes = chosen_classes(mean_logits(logits), class_of(target, shape[0]))
        weights = position_weights(logits, target, shape)
    with initial:
        start = seed(weighted_logits(logits, weights), classes)
        shares = _rule_of_means(stream, node)
        if shares is None or not shares.divides:
            return spread_gradient(start, weights, targets, shape)
    with scope(rule=shares.name), dividing(shares.division):
        return spread_relevance(start, logits, positions_looked_at(logits, target, shape), targets, shape)


def _rule_of_means(stream: Stream, logits: fx.Node) -> Rule | None:
    """By what rule a mean of the logits over positions hands back the messages of a stream."""
    graph, kind = fx.Graph(), logits.meta["type"]
    read = graph.placeholder("logits")
    mean = graph.call_function(aten.mean.dim, (read, list(range(2, kind.rank))))
    read.meta = {"type": kind, "depends_on_images": True}
    mean.meta = {
        "type": TensorType(kind.shape[:2], kind.dtype),
        "depends_on_images": True,
        **{name: logits.meta.get(name, "") for name in ("module", "source")},
    }
    return stream.rules.rule_for(mean)


def name_of(function: Callable[..., Any]) -> str:
    """The name under which a seed or a read-out appears in graphs."""
    return getattr(function, "__name__", None) or getattr(function, "func", function).__name__


@dataclass
class Walk:
    """The values of a reverse walk, by stream; see `Streams`."""

    messages: dict[str, dict[str, Value]]
    handed: dict[str, dict[str, Sequence[Value | None]]]
    rules: dict[str, dict[str, Rule]]


def _applied(rule: Rule, site: Site, message: Value) -> Sequence[Value | None]:
    """What a rule hands on.

    Raises:
        OptionsError: the rule is not for such a call, which a table of the user's own says it is.
    """
    try:
        return rule(site, message)
    except AgfFxError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise OptionsError(
            f"rule {rule} cannot be applied to %{site.node.name}, a call of {site.node.target} "
            f"({type(error).__name__}: {error}). In a table of your own, let the entry hold of calls that the rule is "
            "for, such as depth(0, 0.5) & family(Family.CONVOLUTION, Family.LINEAR)."
        ) from error


def propagate(
    canonical: CanonicalGraph,
    method: Method,
    sites: Mapping[fx.Node, Site],
    values: Mapping[str, Value],
    seeds: Mapping[str, Value],
) -> Walk:
    """Walk the canonical graph backwards, carrying all streams from the logits to the images, call by call."""
    walk = Walk(*({stream.name: {} for stream in method.streams} for _ in range(3)))
    pending = {stream.name: defaultdict(list) for stream in method.streams}
    for name, seed in seeds.items():
        pending[name][canonical.logits].append(seed)
    for node in reversed(canonical.calls):
        for stream in method.streams:
            message = _arrived(walk, stream, node, sites[node].y, pending[stream.name])
            rule = stream.rule_for(node, message)
            if rule is None:
                continue
            with scope(stream=stream.name, rule=str(rule), layer=node.meta["module"], site=node.name):
                handed = _applied(rule, sites[node], message)
            sites[node].sent[stream.name] = Sent(message, handed)
            walk.handed[stream.name][node.name], walk.rules[stream.name][node.name] = handed, rule
            for operand, value in zip(operands(node), handed, strict=True):
                if depends_on_images(operand):
                    pending[stream.name][operand].append(_like(operand, node, value))
    source = canonical.images
    for stream in method.streams:
        _arrived(walk, stream, source, values[source.name], pending[stream.name])
    return walk


def _like(operand: fx.Node, node: fx.Node, message: Value | None) -> Value | None:
    """What a call hands to an operand, in the operand's dtype: PyTorch promotes where a call mixes floating ones."""
    own, wanted = carried_type(node).dtype, carried_type(operand).dtype
    if message is None or own == wanted or not (own.is_floating_point and wanted.is_floating_point):
        return message
    return message if node.target is aten.to.dtype else aten.to.dtype(message, wanted)


def _arrived(
    walk: Walk, stream: Stream, node: fx.Node, x: Value, pending: Mapping[fx.Node, list[Value | None]]
) -> Value | None:
    """What the readers of a value hand back, as one message, which the walk keeps; None where there is none."""
    if node not in pending:
        return None
    with scope(stream=stream.name, layer=node.meta.get("module", ""), site=node.name):
        message = stream.merge(x, pending[node], carried_type(node).sample_dims)
    if message is not None:
        walk.messages[stream.name][node.name] = message
    return message
