"""Numbers as factors: one, in front of a sum and behind a mean, in place of several on the way.

A rule that divides by a sum adds its stabiliser to it, so that c · (a + b) and c·a + c·b have equal maps only in the
limit. With the factors in front of the sum, it is the value that is read, wherever they were written.
"""

from __future__ import annotations

import math

import torch
from torch import fx

from agf_fx.frontend.rewrites.arithmetic import new
from agf_fx.frontend.rewrites.editing import become, erase, give_way, insert, kind_of
from agf_fx.frontend.rewrites.values import factor_of, is_call, number_of, reshaped, same_shape, times
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten

_SUMS = (aten.add.Tensor, aten.sub.Tensor)
_MOVES = (aten.reshape.default, aten.permute.default, aten.index_select.default, aten.roll.default)
_REDUCTIONS = (aten.sum.dim_IntList, aten.mean.dim)


def collect_factors(node: fx.Node) -> None:
    """c·(d·x) = (cd)·x, c·(a + b) = c·a + c·b, a + w·(b - a) = (1 - w)·a + w·b, Σ/n a mean, and sums of sums."""
    if is_call(node, *_SUMS):
        _sum(node)
    elif is_call(node, *_REDUCTIONS):
        _reduction(node)
    elif factor_of(node):
        _product(node)


def _sum(node: fx.Node) -> None:
    first, second = node.args
    if number_of(second) == 0 and same_shape(node, first):
        return erase(node)
    if not (depends_on_images(first) and depends_on_images(second)):
        return None
    if node.target is aten.add.Tensor and (_interpolation(node, first, second) or _interpolation(node, second, first)):
        return None
    return _moved_alike(node, first, second)


def _interpolation(node: fx.Node, x: fx.Node, step: fx.Node) -> bool:
    """x + w·(y - x), which is x + (w·y - w·x) by now, as (1 - w)·x + w·y; the difference may have another shape."""
    shape = None
    if is_call(step, aten.reshape.default) and len(step.users) == 1:
        step, shape = step.args
    if not is_call(step, aten.sub.Tensor) or len(step.users) > 1:
        return False
    y, subtracted = step.args
    other, weight = factor_of(subtracted) or (subtracted, 1.0)
    if shape is not None and is_call(other, aten.reshape.default):
        other = other.args[0]
    if other is not x or weight == 1 or not depends_on_images(y):
        return False
    y = y if shape is None else insert(node, aten.reshape.default, y, shape)
    give_way(node, new(node, aten.add.Tensor, times(node, x, 1 - weight), y))
    return True


def _moved_alike(node: fx.Node, first: fx.Node, second: fx.Node) -> None:
    """A sum of two values that are moved in the same way is moved after it."""
    if not is_call(first, *_MOVES) or not is_call(second, first.target):
        return
    x, y = first.args[0], second.args[0]
    if first.args[1:] != second.args[1:]:
        return
    if first.target is aten.reshape.default and not kind_of(node).batched and kind_of(x) != kind_of(y):
        x, y = _in_one_shape(node, x, y)
    if kind_of(x) == kind_of(y):
        total = new(node, node.target, x, y)
        give_way(node, insert(node, first.target, total, *first.args[1:]))
        for moved in {first, second}:
            if not moved.users:
                moved.graph.erase_node(moved)
        _sum(total)


def _in_one_shape(before: fx.Node, x: fx.Node, y: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Two values of equal entries in the shape of the one that has more dimensions, the first of them the images."""
    if not (kind_of(x).batched and kind_of(y).batched):
        return x, y
    if kind_of(x).rank > kind_of(y).rank:
        return x, insert(before, aten.reshape.default, y, kind_of(x).free_batch)
    return insert(before, aten.reshape.default, x, kind_of(y).free_batch), y


def _product(node: fx.Node) -> None:
    x, factor = factor_of(node)
    if isinstance(node.args[-1], fx.Node) and node.target is not aten.neg.default:
        become(node, aten.mul.Tensor, x, factor)
    inner = len(x.users) == 1 and factor_of(x)  # where others read x, it has relevance of its own
    if abs(factor - 1) < 1e-14:
        erase(node)
    elif inner or _is_own_sum(x) or _is_moved_sum(x):
        give_way(node, _distributed(node, x, factor))
    elif is_call(x, aten.sum.dim_IntList):
        _scaled_mean(node, x, *x.args, factor * _count(x))
    else:
        _scaled_mean(node, x, *_mean_of(x), factor)


def _is_own_sum(x: fx.Node) -> bool:
    """Whether ``x`` is a sum of two signals of its shape that nobody else reads."""
    if not is_call(x, *_SUMS) or len(x.users) > 1:
        return False
    return all(depends_on_images(term) and term.target is not aten.expand.default for term in x.args)


def _is_moved_sum(x: fx.Node) -> bool:
    """Whether ``x`` is a sum, or has a factor, but for movements, and nobody else reads it on the way."""
    while is_call(x, aten.reshape.default, aten.permute.default) and len(x.users) == 1:
        x = x.args[0]
        if len(x.users) == 1 and (factor_of(x) or _is_own_sum(x)):
            return True
    return False


def _distributed(before: fx.Node, x: fx.Node, factor: float) -> fx.Node:
    """``factor`` · x, with the factor in front of the terms where x is a sum."""
    found = factor_of(x)
    if found and len(x.users) == 1:
        return _distributed(before, found[0], factor * found[1])
    if _is_moved_sum(x):
        return insert(before, x.target, _distributed(before, x.args[0], factor), x.args[1])
    if _is_own_sum(x):
        return new(before, x.target, *(_distributed(before, term, factor) for term in x.args))
    return times(before, x, factor)


def _scaled_mean(
    node: fx.Node, pooled: fx.Node, x: fx.Node | None, dims: list[int], keepdim: bool, factor: float
) -> None:
    """``factor`` times a mean of known count: the mean itself where it is 1, and the sum where it is the count."""
    if x is None or not isinstance(_size(x, dims), int):
        return
    if abs(factor / _size(x, dims) - 1) < 1e-14:
        give_way(node, insert(node, aten.sum.dim_IntList, x, dims, keepdim))
    elif is_call(pooled, aten.sum.dim_IntList):
        give_way(node, times(node, insert(node, aten.mean.dim, x, dims, keepdim), factor))


def _mean_of(pooled: fx.Node) -> tuple[fx.Node | None, list[int], bool]:
    """What is averaged, and over which dimensions, where ``pooled`` is one mean of each of its channels."""
    if is_call(pooled, aten.mean.dim):
        x, dims, keepdim = pooled.args
        return x, dims, keepdim
    if is_call(pooled, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default):
        spatial = list(range(2, kind_of(pooled).rank))
        if kind_of(pooled).rank > 3 and set(pooled.args[1]) == {1} and kind_of(pooled.args[0]).batched:
            return pooled.args[0], spatial, True
    return None, [], True


def _size(x: fx.Node, dims: list[int]) -> int:
    return math.prod(kind_of(x).shape[dim] for dim in dims)


def _count(total: fx.Node) -> int:
    return _size(total.args[0], total.args[1])


def _reduction(node: fx.Node) -> None:
    """A sum or mean of sums or means as one over all their dimensions."""
    inner, dims, _ = node.args
    if not is_call(inner, *_REDUCTIONS) or inner.kwargs or node.kwargs:
        return
    x, before, kept = inner.args
    left = [dim for dim in range(kind_of(x).rank) if kept or dim not in before]
    every = sorted({*before, *(left[dim] for dim in dims)})
    count = _size(inner, dims)
    total = insert(node, inner.target, x, every, False)
    factor = (
        {aten.mean.dim: 1 / count, aten.sum.dim_IntList: count}[node.target] if node.target is not inner.target else 1
    )
    give_way(node, times(node, reshaped(node, total, kind_of(node).free_batch), factor))
