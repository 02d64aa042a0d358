"""Pooling, means and resampling: every setting per dimension; one-dimensional poolings as two-dimensional ones.

Resampling by the nearest entry is data movement, written by the positions of the entries it takes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import become, give_way, insert, kind_of, per_dimension
from agf_fx.frontend.rewrites.positions import give_taken
from agf_fx.ir.types import TensorType

aten = torch.ops.aten


def _max_pool(with_indices: torch._ops.OpOverload, dims: int) -> Callable[[fx.Node], None]:
    def rewrite(node: fx.Node) -> None:
        kind, (x, kernel, stride, padding, dilation, ceil_mode) = kind_of(node), node.args
        settings = (per_dimension(value, dims) for value in (kernel, stride or kernel, padding, dilation))
        pooled = insert(node, with_indices, x, *settings, ceil_mode, type=(kind, TensorType(kind.shape, torch.int64)))
        give_way(node, insert(node, operator.getitem, pooled, 0))

    return rewrite


def _max_pool_with_indices(dims: int) -> Callable[[fx.Node], None]:
    def rewrite(node: fx.Node) -> None:
        x, kernel, stride, padding, dilation, ceil_mode = node.args
        settings = (per_dimension(value, dims) for value in (kernel, stride or kernel, padding, dilation))
        node.args = (x, *settings, ceil_mode)

    return rewrite


def _average_pool(dims: int) -> Callable[[fx.Node], None]:
    def rewrite(node: fx.Node) -> None:
        x, kernel, stride, padding, *rest = node.args
        settings = (per_dimension(value, dims) for value in (kernel, stride or kernel, padding))
        node.args = (x, *settings, *rest)

    return rewrite


def _adaptive_pool(dims: int) -> Callable[[fx.Node], None]:
    def rewrite(node: fx.Node) -> None:
        node.args = (node.args[0], per_dimension(node.args[1], dims))

    return rewrite


def _flat_pool(target: torch._ops.OpOverload, fixed: tuple[int, ...], pair: bool = False) -> Callable[[fx.Node], None]:
    """A pooling of (N, C, L) as one of (N, C, 1, L).

    Args:
        target: the pooling of two dimensions.
        fixed: for each setting per dimension, what it is for the dimension of size 1.
        pair: whether ``target`` also returns where each entry was found.
    """

    def rewrite(node: fx.Node) -> None:
        x, *settings = node.args
        results = node.meta["type"] if isinstance(node.meta["type"], tuple) else (node.meta["type"],)
        if any(reader.args[1] != 0 for reader in node.users if len(results) > 1):
            return  # positions are counted otherwise
        settings[1:2] = [settings[1] or settings[0]] if len(fixed) > 1 else settings[1:2]
        for i, value in enumerate(fixed):
            settings[i] = [value, *per_dimension(settings[i], 1)]
        if target is aten.avg_pool2d.default:
            settings.append(None)  # divisor_override
        flat = insert(node, aten.reshape.default, x, _with_row(kind_of(x).free_batch))
        kind = TensorType(tuple(_with_row(results[0].shape)), results[0].dtype)
        pooled = insert(
            node, target, flat, *settings, type=(kind, TensorType(kind.shape, torch.int64)) if pair else kind
        )
        if pair:
            pooled = insert(node, operator.getitem, pooled, 0)
        line = insert(node, aten.reshape.default, pooled, results[0].free_batch)
        for reader in list(node.users) if len(results) > 1 else [node]:
            give_way(reader, line)
        if len(results) > 1:
            node.graph.erase_node(node)

    return rewrite


def _with_row(shape: Sequence[Any]) -> list[Any]:
    """With a dimension of size 1 before the last."""
    return [*shape[:-1], 1, shape[-1]]


def _mean(node: fx.Node) -> None:
    x, dims, keepdim = node.args
    if dims and node.kwargs.get("dtype") is None:
        rank = kind_of(x).rank
        become(node, node.target, x, sorted(dim % rank for dim in dims), keepdim)


def _over_dims(node: fx.Node) -> None:
    x, dims, keepdim = node.args
    if dims:
        rank = kind_of(x).rank
        become(node, node.target, x, sorted(dim % rank for dim in per_dimension(dims, 1)), keepdim)


def _extreme(node: fx.Node) -> None:
    """The values of ``max(dim)``, where nobody asks for the positions; and the least entry as the largest of -x."""
    pair = isinstance(node.meta["type"], tuple)
    x, dims, keepdim = node.args
    if any(reader.args[1] != 0 for reader in node.users if pair) or dims in ([], None):
        return
    least = node.target in (aten.amin.default, aten.min.dim)
    dims = sorted(dim % kind_of(x).rank for dim in per_dimension(dims, 1))
    value = insert(node, aten.neg.default, x) if least else x
    value = insert(node, aten.amax.default, value, dims, keepdim)
    value = insert(node, aten.neg.default, value) if least else value
    for reader in list(node.users) if pair else [node]:
        give_way(reader, value)
    if pair:
        node.graph.erase_node(node)


def _resampled(target: torch._ops.OpOverload, dims: int) -> Callable[[fx.Node], None]:
    """Linear interpolation to a size, or by factors, which then also place the samples."""

    def rewrite(node: fx.Node) -> None:
        x, _, align_corners, factors = node.args
        size = list(kind_of(node).shape[2:])
        become(node, target, x, size, align_corners, *(factors or [None] * dims))

    return rewrite


def _nearest(node: fx.Node) -> None:
    """Resampling by the nearest entry, at the positions that the call itself takes on a map of its size.

    The kernels of one, two and three dimensions round a scale factor differently, so each is asked itself.
    """
    x, size, factors = node.args
    sides = kind_of(x).shape[2:]
    positions = {}
    for dim, side in enumerate(sides):
        line = torch.arange(side, dtype=torch.float64).reshape([-1 if i == dim else 1 for i in range(len(sides))])
        taken = node.target(line.expand(sides)[None, None].contiguous(), size, factors)[0, 0]
        positions[2 + dim] = taken.movedim(dim, -1).reshape(-1, taken.shape[dim])[0].long()
    give_taken(node, positions)


POOLING: dict[Callable[..., Any], Callable[[fx.Node], None]] = {
    aten.max_pool2d.default: _max_pool(aten.max_pool2d_with_indices.default, 2),
    aten.max_pool3d.default: _max_pool(aten.max_pool3d_with_indices.default, 3),
    aten.max_pool2d_with_indices.default: _max_pool_with_indices(2),
    aten.max_pool3d_with_indices.default: _max_pool_with_indices(3),
    aten.avg_pool2d.default: _average_pool(2),
    aten.avg_pool3d.default: _average_pool(3),
    aten.adaptive_avg_pool2d.default: _adaptive_pool(2),
    aten.adaptive_avg_pool3d.default: _adaptive_pool(3),
    aten.adaptive_max_pool2d.default: _adaptive_pool(2),
    aten.adaptive_max_pool3d.default: _adaptive_pool(3),
    aten.max_pool1d.default: _flat_pool(aten.max_pool2d_with_indices.default, (1, 1, 0, 1), pair=True),
    aten.max_pool1d_with_indices.default: _flat_pool(aten.max_pool2d_with_indices.default, (1, 1, 0, 1), pair=True),
    aten.avg_pool1d.default: _flat_pool(aten.avg_pool2d.default, (1, 1, 0)),
    aten.adaptive_avg_pool1d.default: _flat_pool(aten.adaptive_avg_pool2d.default, (1,)),
    aten.adaptive_max_pool1d.default: _flat_pool(aten.adaptive_max_pool2d.default, (1,), pair=True),
    aten.mean.dim: _mean,
    aten.sum.dim_IntList: _mean,
    aten.logsumexp.default: _over_dims,
    **dict.fromkeys((aten.amax.default, aten.amin.default, aten.max.dim, aten.min.dim), _extreme),
    aten.upsample_linear1d.vec: _resampled(aten.upsample_linear1d.default, 1),
    aten.upsample_bilinear2d.vec: _resampled(aten.upsample_bilinear2d.default, 2),
    aten.upsample_trilinear3d.vec: _resampled(aten.upsample_trilinear3d.default, 3),
    **dict.fromkeys(
        (aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec),
        _nearest,
    ),
    **dict.fromkeys(
        (
            aten._upsample_nearest_exact1d.vec,
            aten._upsample_nearest_exact2d.vec,
            aten._upsample_nearest_exact3d.vec,
        ),
        _nearest,
    ),
}
