"""Methods that look at many points for each image: run in pieces, or written out in one graph for a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from agf_fx.errors import ExportError
from agf_fx.ir.graph import BASELINE, ExplanationGraph, class_name
from agf_fx.methods.method import Method, Points, Trace
from agf_fx.rules.notation import scope
from agf_fx.rules.targets import chosen_classes, class_of, explained_classes, mean_logits
from agf_fx.runtime.program import Program
from agf_fx.runtime.progress import Follow, followed, unfollowed
from agf_fx.runtime.search import searched
from agf_fx.tracer import RuleTracer

aten = torch.ops.aten

AT_ONCE = 32  # points times images: enough to fill a processor; what one run takes in pieces is the program's to know


def explained(
    program: Program,
    method: Method,
    images: Tensor,
    target: Tensor,
    prepare: Callable[..., list[Tensor]],
    follow: Follow = followed,
) -> tuple[Tensor, ...]:
    """Explain a batch with any method and one set of weights.

    Args:
        program: the method's compiled graph.
        method: the method.
        images: (N, C, H, W).
        target: (N, K) int64; a class, or -r for the class of rank r.
        prepare: what the program takes besides; of a baseline (1, *image), if one is given.
        follow: what says how far it is.

    Returns:
        maps (N, K, *spatial), logits (N, classes), and what is asked of layers.

    Raises:
        MemoryLimitError: one image with one target is too much.
    """
    canonical = program.canonical
    baselines = None if method.baseline is None else method.baseline.images(canonical.image_type).to(images.device)
    if method.points is None and method.search is None:
        several = baselines is not None and len(baselines) > 1
        if several:
            return _mean(program, images, target, baselines, prepare, follow)
        return program.run(images, target, prepare())
    images, inputs = program.placement.cast(images), prepare()
    _, logits = program.run(images, target[:, :1], inputs)
    classes = torch.where(target < 0, explained_classes(logits, target), target)
    values = {canonical.images.name: images}
    values |= {} if baselines is None else {BASELINE: program.placement.cast(baselines)}
    trace = Trace(canonical, values, {}, method.channels_of(canonical), target.shape[1])
    if method.search is not None:
        return searched(program, method.search, trace, classes, inputs, silent=follow is unfollowed), logits
    sums = _weighted_sums(program, method.points, trace, classes, inputs, follow)
    maps = method.points.read_out(trace, *(total.transpose(0, 1) for total in sums))
    return maps.transpose(0, 1).contiguous(), logits


def _mean(
    program: Program,
    images: Tensor,
    target: Tensor,
    baselines: Tensor,
    prepare: Callable[..., list[Tensor]],
    follow: Follow,
) -> tuple[Tensor, ...]:
    """What the graph says with every baseline in turn, on average over them; what it says of the images is the same."""
    averaged = (True, False, *(layer.per_target for layer in program.explanation.layer_outputs))
    sums: list[Any] = [0 for _ in averaged]
    for first in follow(range(len(baselines)), len(baselines), "baselines"):
        found = program.run(images, target, prepare(baselines[first : first + 1]))
        sums = [a + b if each else b for a, b, each in zip(sums, found, averaged, strict=True)]
    return tuple(total / len(baselines) if each else total for total, each in zip(sums, averaged, strict=True))


def _weighted_sums(
    program: Program, looked: Points, trace: Trace, classes: Tensor, inputs: list[Tensor], follow: Follow
) -> list[Tensor]:
    """What the graph says at every point, each moment of it weighted and summed: (N, K, *image)."""
    points, count = looked.on(trace.canonical, trace.channel_dim), len(trace.images)
    step = max(1, AT_ONCE // count)
    sums: list[Any] = [0 for _ in looked.moments]
    origin: Tensor | None = None
    for first in follow(range(0, len(points), step), len(points), "points"):
        group = points[first : first + step]
        batch = torch.cat([point.of(trace) for point in group])
        found, _ = program.run(batch, classes.repeat(len(group), 1), inputs)
        for point, part in zip(group, found.split(count), strict=True):
            part = part if point.times is None else part * point.times(trace).unsqueeze(1)
            if looked.from_first:
                origin = part.clone() if origin is None else origin
                part = part - origin
            for index, moment in enumerate(looked.moments):
                sums[index] = sums[index] + moment(part) * point.weight
    return sums


def written_out(explanation: ExplanationGraph, method: Method) -> ExplanationGraph:
    """The graph of a method with points as one graph ``(images, target, ...) -> (maps, logits)``, all points at once.

    The images pass the graph once, for their logits, and the points of all images as one larger batch.

    Args:
        explanation: the lowered graph at one point.
        method: the method.

    Raises:
        ExportError: no file can hold the points.
    """
    if method.points.unwritable:
        raise ExportError(
            f"{method.name} {method.points.unwritable}, which no file holds; export a method of one pass, or what this "
            'one looks at: for methods that average gradients, "gradient".'
        )
    tracer = RuleTracer()
    nodes = [node for node in explanation.graph.nodes if node.op == "placeholder"]
    inputs = {node: tracer.graph.placeholder(node.name) for node in nodes}
    for node, copy in inputs.items():
        copy.meta = dict(node.meta)
    images, target = (fx.Proxy(inputs[node], tracer) for node in nodes[:2])
    canonical = explanation.canonical
    points = method.points.on(canonical, method.channels_of(canonical))
    values = {canonical.images.name: images}
    if method.baseline is not None:
        values[BASELINE] = fx.Proxy(tracer.graph.placeholder(BASELINE), tracer)
    trace = Trace(canonical, values, {}, method.channels_of(canonical))
    logits = _inlined(tracer, explanation, inputs, {})[1]
    with scope(stream="forward", rule="points", symbol="x_s"):
        batch = torch.ops.aten.cat.default([point.of(trace) for point in points])
        classes = _classes(logits, target, canonical.num_classes, canonical.positions)
        repeated = aten.cat.default([classes for _ in points])
    found = _inlined(tracer, explanation, inputs, {nodes[0]: batch.node, nodes[1]: repeated.node})[0]
    with scope(stream="read-out", rule="points", symbol="∇"):
        targets = aten.sym_size.int(target, 1)
        shape = canonical.image_type.sample_shape
        by_point = torch.reshape(found, [len(points), -1, targets, *shape])
        parts = [torch.narrow(by_point, 0, index, 1) for index in range(len(points))]
        parts = [
            part if point.times is None else part * torch.unsqueeze(point.times(trace), 1)
            for point, part in zip(points, parts, strict=True)
        ]
        sums = []
        for moment in method.points.moments:
            weighted = [moment(part) * point.weight for point, part in zip(points, parts, strict=True)]
            sums.append(torch.transpose(torch.sum(aten.cat.default(weighted), [0]), 0, 1))
        trace = replace(trace, targets=targets)
        maps = torch.transpose(method.points.read_out(trace, *sums), 0, 1)
    tracer.graph.output((maps.node, logits.node))
    tracer.graph.eliminate_dead_code()
    module = fx.GraphModule(torch.nn.Module(), tracer.graph, class_name(canonical.name, method.name))
    return ExplanationGraph(module, canonical, explanation.method, explanation.prepare)


def averaged(explanation: ExplanationGraph, method: Method, count: int) -> ExplanationGraph:
    """The graph of a method with several baselines as one graph, on average over them, all at once.

    The images pass the graph as one larger batch, once for every baseline, and beside each of them its baseline.

    Args:
        explanation: the lowered graph for one baseline, (1, *image).
        method: the method.
        count: the number of baselines; the graph's input ``baseline`` is (count, *image).
    """
    tracer, canonical = RuleTracer(), explanation.canonical
    (images, target, *others), prepare = explanation.graph.find_nodes(op="placeholder"), explanation.prepare.graph
    x, classes = (fx.Proxy(tracer.graph.placeholder(node.name), tracer) for node in (images, target))
    weights = {node.name: tracer.graph.placeholder(node.name) for node in prepare.find_nodes(op="placeholder")}
    with scope(stream="reference", rule="baselines", symbol="x₀", equation="every baseline, for every image"):
        batch = aten.sym_size.int(x, 0)
        sizes = [-1, batch, *[-1] * (canonical.image_type.rank - 1)]
        baselines = torch.unsqueeze(fx.Proxy(weights[BASELINE], tracer), 1)
        weights[BASELINE] = torch.flatten(aten.expand.default(baselines, sizes), 0, 1).node
        repeated = {node: aten.cat.default([value] * count).node for node, value in ((images, x), (target, classes))}
    ready = _copied(tracer, prepare, {node: weights[node.name] for node in prepare.find_nodes(op="placeholder")})
    weights |= zip(explanation.prepared, (ready[node] for node in prepare.output_node().args[0]), strict=True)
    maps, logits = _inlined(tracer, explanation, repeated, {node: weights[node.name] for node in others})
    with scope(stream="read-out", rule="baselines", symbol="map", equation="the mean over baselines"):
        targets, channels = aten.sym_size.int(classes, 1), method.channels_of(canonical)
        spatial = [size for dim, size in enumerate(canonical.image_type.sample_shape, 1) if dim != channels]
        mean = torch.mean(torch.reshape(maps, [count, -1, targets, *spatial]), [0])
    with scope(stream="forward", rule="baselines", symbol="y"):
        by_baseline = torch.reshape(logits, [count, -1, *canonical.logits.meta["type"].sample_shape])
        logits = torch.ops.aten.select.int(by_baseline, 0, 0)
    tracer.graph.output((mean.node, logits.node))
    tracer.graph.eliminate_dead_code()
    module = fx.GraphModule(torch.nn.Module(), tracer.graph, class_name(canonical.name, explanation.method))
    return ExplanationGraph(module, canonical, explanation.method)


def _inlined(
    tracer: RuleTracer, explanation: ExplanationGraph, inputs: Mapping[fx.Node, fx.Node], given: dict[fx.Node, fx.Node]
) -> tuple[fx.Proxy, fx.Proxy]:
    """A copy of the graph's calls, reading ``given`` in the place of some inputs: its maps and logits."""
    copies = _copied(tracer, explanation.graph, dict(inputs) | given)
    maps, logits = explanation.graph.output_node().args[0]
    return fx.Proxy(copies[maps], tracer), fx.Proxy(copies[logits], tracer)


def _copied(tracer: RuleTracer, graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> dict[fx.Node, fx.Node]:
    """Copies of the calls of ``graph``, of which ``copies`` has the inputs; types may differ there."""
    for node in graph.nodes:
        if node.op == "call_function":
            copies[node] = tracer.graph.node_copy(node, copies.__getitem__)
            copies[node].meta = {key: value for key, value in node.meta.items() if key != "type"}
    return copies


def _classes(logits: fx.Proxy, target: fx.Proxy, classes: int, positions: tuple[int, ...]) -> fx.Proxy:
    """The classes that targets stand for, (N, K); places stay."""
    if positions:
        chosen = chosen_classes(mean_logits(logits), class_of(target, classes))
        return torch.where(target < 0, torch.transpose(chosen, 0, 1), target)
    return torch.transpose(chosen_classes(logits, target), 0, 1)
