"""What a request costs as the runtime meets it: with its points, baselines, steps and pieces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sympy

from agf_fx.ir.cost_model import POINTS, Cost, graph_cost, raised, substituted
from agf_fx.ir.costs import node_cost, total
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import BATCH, TARGETS
from agf_fx.methods.method import Method
from agf_fx.runtime.points import AT_ONCE
from agf_fx.runtime.program import Program
from agf_fx.runtime.search import AT_ONCE as ROWS_AT_ONCE
from agf_fx.runtime.weights import sampling_bytes

_OPERATIONS_PER_POINT = 3  # for every entry of an image: x -> b + α (x - b)
_BACKWARD = 2  # products of a gradient by the weights, for every product of the forward pass


def cost(program: Program, method: Method, depth: int | None = None) -> Cost:
    """The cost of explaining N images for K targets each, as an expression.

    Args:
        program: the compiled graph.
        method: the method, which says how often the graph runs.
        depth: of the modules that rows of layers stand for.
    """
    own = program.canonical.image_type.dtype.itemsize
    scale = sympy.Rational(program.placement.dtype.itemsize, own)
    one = graph_cost(program.explanation, depth, scale, program.copied)
    if program.rearranges:
        one = replace(one, graph_peak=raised(one.graph_peak, one.image_bytes))
    weights = [node.meta["type"] for node in program.canonical.graph.find_nodes(op="placeholder")[1:]]
    one = replace(one, least_peak=sampling_bytes(weights), largest_piece=program.limits.largest_piece)
    found = _often(one, program, method)
    return found if method.step is None else _stepped(found, one, program.canonical)


def _often(one: Cost, program: Program, method: Method) -> Cost:
    """With all runs of the graph that an explanation takes."""
    if method.search is not None:
        return _searched(one, method)
    if method.points is not None:
        return _at_points(one, program, method)
    count = 1 if method.baseline is None else len(method.baseline.images(program.canonical.image_type))
    if count == 1:
        return one
    several = _times(one, POINTS)
    return replace(several, runs=POINTS, points=count, held=one.result_bytes)


def _at_points(one: Cost, program: Program, method: Method) -> Cost:
    """Once for the classes, and at every point; the points of as many images as fill a processor at once."""
    canonical, looked = program.canonical, method.points
    count, moments = len(looked.on(canonical, method.channels_of(canonical))), len(looked.moments)
    for_classes, at_points = _at(one, BATCH, 1), _times(one, POINTS)
    entries = BATCH * canonical.image_type.sample_size
    sums = POINTS * entries * (_OPERATIONS_PER_POINT + 2 * moments * TARGETS)
    together = sympy.Min(POINTS, sympy.Max(1, sympy.floor(AT_ONCE / BATCH)))
    found = substituted(one.result_bytes, {BATCH: BATCH * together})
    # A group of points, the running sums, and, from the second group on, what the one before has found.
    again = sympy.Min(1, sympy.ceiling(POINTS / together) - 1)
    held = one.image_bytes * (together + (moments + looked.from_first) * TARGETS) + again * found
    return replace(
        one,
        flops=for_classes.flops + at_points.flops + sums,
        product_flops=for_classes.product_flops + at_points.product_flops,
        bytes=for_classes.bytes + at_points.bytes,
        batch=(BATCH * together, TARGETS),
        held=held,
        result_bytes=found,
        runs=1 + sympy.ceiling(POINTS / together),
        points=count,
    )


def _searched(one: Cost, method: Method) -> Cost:
    """Once for the classes, and at every step at most: S of them for each row, an image with one target."""
    search = method.search
    rows = BATCH * TARGETS * search.runs
    for_classes, seeking = _at(one, BATCH, 1), _at(one, rows, 1)
    together = sympy.Min(rows, ROWS_AT_ONCE)
    held = search.held * substituted(one.image_bytes, {BATCH: together})
    return replace(
        one,
        flops=for_classes.flops + POINTS * seeking.flops,
        product_flops=for_classes.product_flops + POINTS * seeking.product_flops,
        bytes=for_classes.bytes + POINTS * seeking.bytes,
        batch=(together, sympy.S.One),
        held=held + one.result_bytes,
        runs=1 + POINTS * sympy.ceiling(rows / together),
        points=search.steps,
    )


def _stepped(inside: Cost, one: Cost, canonical: CanonicalGraph) -> Cost:
    """For every image and target alone: a gradient by the weights, what is prepared from the moved ones, and the rest.

    Peak memory is that of the method inside, besides copies of the weights; what autograd keeps is not in the graph,
    and not counted.
    """
    pairs, single = BATCH * TARGETS, _at(inside, 1, 1)
    costs = [node_cost(node) for node in canonical.calls]
    products = total(cost.flops for cost in costs if cost.product).subs(BATCH, 1)
    forward = total(cost.flops for cost in costs if cost.flops is not None).subs(BATCH, 1)
    step = forward + _BACKWARD * products
    return replace(
        inside,
        flops=pairs * (step + inside.prepare_flops + single.flops),
        product_flops=pairs * ((1 + _BACKWARD) * products + single.product_flops),
        bytes=pairs * single.bytes,
        batch=tuple(substituted(size, {BATCH: 1, TARGETS: 1}) for size in inside.batch),
        held=single.held + 2 * one.weight_bytes + one.prepared_bytes + one.result_bytes,
        runs=pairs * single.runs,
    )


def _at(cost: Cost, images: Any, targets: Any) -> Cost:
    values = {BATCH: images, TARGETS: targets}
    names = ("flops", "product_flops", "bytes", "held", "image_bytes", "result_bytes", "runs")
    return replace(cost, **{name: substituted(getattr(cost, name), values) for name in names})


def _times(cost: Cost, count: Any) -> Cost:
    names = ("flops", "product_flops", "bytes")
    return replace(cost, **{name: sympy.expand(count * getattr(cost, name)) for name in names})
