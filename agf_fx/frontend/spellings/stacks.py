"""Stacks: what is stacked and summed at once is a sum of signals, however it was stacked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.arithmetic import new
from agf_fx.frontend.rewrites.editing import give_way, insert, kind_of
from agf_fx.frontend.rewrites.values import factor_of, is_call, known, number_of, reshaped, times
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten

# One entry along a dimension, as what makes it in front of a call; None where it is no whole signal.
Entry = Callable[[fx.Node], fx.Node]


def take_stacks_apart(node: fx.Node) -> None:
    """Σ over a dimension whose entries are whole signals as a + b; also the mean, a product with a fixed vector, and
    the larger of a signal and a number.
    """
    if is_call(node, aten.sum.dim_IntList, aten.mean.dim) and not node.kwargs:
        _sum(node)
    elif is_call(node, aten.linear.default):
        _weighted_sum(node)
    elif is_call(node, aten.amax.default):
        _larger(node)


def _sum(node: fx.Node) -> None:
    x, dims, _ = node.args
    found = next(((dim, parts) for dim in dims if (parts := entries(x, dim))), None)
    if not found:
        return
    dim, parts = found
    terms = [part(node) for part in parts]
    total = terms[0]
    for term in terms[1:]:
        total = new(node, aten.add.Tensor, total, term)
    rest = [other - (other > dim) for other in dims if other != dim]
    if rest:
        total = insert(node, node.target, total, rest, False)
    scale = 1 / len(terms) if node.target is aten.mean.dim else 1
    give_way(node, reshaped(node, times(node, total, scale), kind_of(node).free_batch))


def _weighted_sum(node: fx.Node) -> None:
    """x w for a fixed row w, and x a stack along its last dimension, or w one number throughout."""
    x, weight, bias = node.args
    row, last = known(weight), kind_of(x).rank - 1
    if row is None or row.shape[0] != 1 or bias is not None or bool((row == 0).any()):
        return
    parts = entries(x, last)
    if not parts:
        if bool((row == row[0, 0]).all()):
            total = insert(node, aten.sum.dim_IntList, x, [last], True)
            give_way(node, times(node, total, float(row[0, 0])))
        return
    terms = [times(node, part(node), float(w)) for part, w in zip(parts, row[0], strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = new(node, aten.add.Tensor, total, term)
    give_way(node, reshaped(node, total, kind_of(node).free_batch))


def _larger(node: fx.Node) -> None:
    """max(x, c) as a clamp, and max(x, c · x) as a leaky ReLU."""
    x, dims, _ = node.args
    parts = entries(x, dims[0]) if len(dims) == 1 else None
    if not parts or len(parts) != 2:
        return
    values = [part(node) for part in parts]
    numbers = [number for value in values if (number := number_of(value)) is not None]
    signals = [value for value in values if depends_on_images(value)]
    if len(numbers) == 1 and len(signals) == 1:
        clamped = insert(node, aten.clamp.default, signals[0], numbers[0], None)
        return give_way(node, reshaped(node, clamped, kind_of(node).free_batch))
    for x, scaled in (values, values[::-1]):
        found = factor_of(scaled)
        if found and found[0] is x and 0 < found[1] < 1:
            leaky = insert(node, aten.leaky_relu.default, x, found[1])
            return give_way(node, reshaped(node, leaky, kind_of(node).free_batch))
    return None


def entries(x: Any, dim: int) -> list[Entry] | None:
    """What makes each entry of ``x`` along ``dim``, without that dimension; None where one is no whole signal."""
    size = kind_of(x).shape[dim] if isinstance(x, fx.Node) else 0
    if not isinstance(size, int) or size < 2 or x.op != "call_function":
        return None
    finder = _FINDERS.get(x.target)
    found = finder(x, dim) if finder else None
    return found if found and len(found) == size else None


def _without(shape: list[int], dim: int) -> list[int]:
    return shape[:dim] + shape[dim + 1 :]


def _of_cat(x: fx.Node, dim: int) -> list[Entry] | None:
    items, along = x.args
    if along != dim or any(kind_of(item).shape[dim] != 1 for item in items):
        return None
    shape = _without(kind_of(x).free_batch, dim)

    def entry(item: fx.Node) -> Entry:
        return lambda before: reshaped(before, item, shape if depends_on_images(item) else _own_shape(item, dim))

    return [entry(item) for item in items]


def _own_shape(item: fx.Node, dim: int) -> list[int]:
    return _without(kind_of(item).free_batch, dim)


def _of_permute(x: fx.Node, dim: int) -> list[Entry] | None:
    source, order = x.args
    inner = entries(source, order[dim])
    if not inner:
        return None
    kept = [d - (d > order[dim]) for d in order if d != order[dim]]

    def entry(part: Entry) -> Entry:
        return lambda before: insert(before, aten.permute.default, part(before), kept)

    return inner if kept == sorted(kept) else [entry(part) for part in inner]


def _of_reshape(x: fx.Node, dim: int) -> list[Entry] | None:
    """The reshape may add and drop other dimensions, and tell apart what is joined: (N, 2C) as (N, 2, C)."""
    source, shape = x.args[0], kind_of(x).shape
    for along in range(kind_of(source).rank):
        if math.prod(kind_of(source).shape[:along]) == math.prod(shape[:dim]):
            inner = entries(source, along) or _joined(source, along, shape[dim])
            if inner:
                return [_reshaped_entry(part, _without(kind_of(x).free_batch, dim)) for part in inner]
    return None


def _reshaped_entry(part: Entry, shape: list[int]) -> Entry:
    return lambda before: reshaped(before, part(before), shape)


def _joined(source: Any, along: int, count: int) -> list[Entry] | None:
    """Joined signals of one size each."""
    if not is_call(source, aten.cat.default) or source.args[1] != along or len(source.args[0]) != count:
        return None
    items = source.args[0]
    alike = all(kind_of(item).shape == kind_of(items[0]).shape for item in items)
    return [lambda before, item=item: item for item in items] if alike else None


def _of_scaled(x: fx.Node, dim: int) -> list[Entry] | None:
    """A stack times a number, or times weights that do not depend on the images and have no batch."""
    source, factor = x.args
    if not depends_on_images(source) or kind_of(source) != kind_of(x) or depends_on_images(factor):
        return None
    inner, number = entries(source, dim), number_of(factor)
    if not inner:
        return None
    if number is not None:
        return [lambda before, part=part: insert(before, x.target, part(before), number) for part in inner]
    if not all(isinstance(size, int) for size in kind_of(factor).shape):
        return None
    axis = dim - kind_of(x).rank + kind_of(factor).rank

    def entry(i: int, part: Entry) -> Entry:
        def scaled(before: fx.Node) -> fx.Node:
            weight = factor
            if axis >= 0:
                weight = insert(before, aten.select.int, factor, axis, i if kind_of(factor).shape[axis] > 1 else 0)
            return insert(before, x.target, part(before), weight)

        return scaled

    return [entry(i, part) for i, part in enumerate(inner)]


_FINDERS: dict[Callable[..., Any], Callable[[fx.Node, int], list[Entry] | None]] = {
    aten.cat.default: _of_cat,
    aten.permute.default: _of_permute,
    aten.reshape.default: _of_reshape,
    aten.mul.Tensor: _of_scaled,
    aten.div.Tensor: _of_scaled,
}
