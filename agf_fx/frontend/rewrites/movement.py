"""Data movement: reshapes with -1 for the batch, permutations, slices with explicit ends, choice by masks.

What sorts entries anew is written as reshape, permutation, reshape; for what takes entries along single dimensions see
`agf_fx.frontend.rewrites.positions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.arithmetic import repeat_signals
from agf_fx.frontend.rewrites.editing import become, constant, erase, give_way, insert, kind_of, sorted_anew, value_of
from agf_fx.frontend.rewrites.positions import POSITIONS
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten


# Shapes


def _reshape(node: fx.Node) -> None:
    if kind_of(node).shape == kind_of(node.args[0]).shape:
        erase(node)
    elif kind_of(node).free_batch.count(-1) <= 1:
        become(node, aten.reshape.default, node.args[0], kind_of(node).free_batch)


def _transpose(node: fx.Node) -> None:
    x, first, second = node.args
    order = list(range(kind_of(x).rank))
    order[first], order[second] = order[second], order[first]
    become(node, aten.permute.default, x, order)


def _permute(node: fx.Node) -> None:
    x, order = node.args
    node.args = (x, [dim % kind_of(x).rank for dim in order])


def _cat(node: fx.Node) -> None:
    tensors, dim = node.args
    tensors = [item for item in tensors if kind_of(item).rank == kind_of(node).rank]  # (0,) is nothing to PyTorch
    become(node, aten.cat.default, tensors, dim % kind_of(node).rank)
    if len(tensors) == 1:
        give_way(node, tensors[0])


def _stack(node: fx.Node) -> None:
    tensors, dim = node.args
    shape = list(kind_of(tensors[0]).free_batch)
    dim %= len(shape) + 1
    shape.insert(dim, 1)
    become(node, aten.cat.default, [insert(node, aten.reshape.default, item, shape) for item in tensors], dim)


def _hstack(node: fx.Node) -> None:
    become(node, aten.cat.default, list(node.args[0]), min(1, kind_of(node).rank - 1))


def _expand(node: fx.Node) -> None:
    x, sizes = node.args[:2]
    if kind_of(x).shape == kind_of(node).shape:
        erase(node)
    elif node.meta["depends_on_images"] and kind_of(node).batch_dim is not None:
        become(node, aten.expand.default, x, kind_of(node).free_batch)
    else:
        node.args = (x, sizes)


def _pixel_shuffle(node: fx.Node) -> None:
    """(N, C r², H, W) -> (N, C, H r, W r)."""
    x, r = node.args
    if kind_of(x).rank == 4:
        n, c, h, w = kind_of(x).free_batch
        sorted_anew(node, [n, c // r**2, r, r, h, w], [0, 1, 4, 2, 5, 3])


def _pixel_unshuffle(node: fx.Node) -> None:
    """(N, C, H r, W r) -> (N, C r², H, W)."""
    x, r = node.args
    if kind_of(x).rank == 4:
        n, c, h, w = kind_of(x).free_batch
        sorted_anew(node, [n, c, h // r, r, w // r, r], [0, 1, 3, 5, 2, 4])


def _channel_shuffle(node: fx.Node) -> None:
    """(N, groups, C / groups, ...) with these two dimensions exchanged."""
    x, groups = node.args
    n, c, *spatial = kind_of(x).free_batch
    sorted_anew(node, [n, groups, c // groups, *spatial], [0, 2, 1, *range(3, 3 + len(spatial))])


# Parts


def _slice(node: fx.Node) -> None:
    x, dim, start, end, step = node.args
    dim %= kind_of(x).rank
    size = kind_of(x).shape[dim]
    if kind_of(node).shape == kind_of(x).shape and step == 1:
        erase(node)
    elif isinstance(size, int):
        start, end, _ = slice(start, end).indices(size)
        become(node, aten.slice.Tensor, x, dim, start, end, step)
    else:
        node.args = (x, dim, start, end, step)


def _narrow(node: fx.Node) -> None:
    x, dim, start, length = node.args
    dim %= kind_of(x).rank
    size = kind_of(x).shape[dim]
    if isinstance(start, int) and isinstance(size, int):
        start %= size
        become(node, aten.slice.Tensor, x, dim, start, start + length, 1)


def _select(node: fx.Node) -> None:
    x, dim, index = node.args
    dim %= kind_of(x).rank
    size = kind_of(x).shape[dim]
    node.args = (x, dim, index % size if isinstance(size, int) else index)


def _parts(node: fx.Node) -> None:
    """``split``, ``chunk`` and the like: a slice for every part that is read."""
    x, dim = node.args[0], node.args[2] % kind_of(node.args[0]).rank
    sizes = [part.shape[dim] for part in node.meta["type"]]
    if not all(isinstance(size, int) for size in sizes):
        return
    for reader in list(node.users):
        start = sum(sizes[: reader.args[1]])
        part = insert(reader, aten.slice.Tensor, x, dim, start, start + sizes[reader.args[1]], 1)
        give_way(reader, part)
    node.graph.erase_node(node)


def _unbind(node: fx.Node) -> None:
    x, dim = node.args
    for reader in list(node.users):
        give_way(reader, insert(reader, aten.select.int, x, dim % kind_of(x).rank, reader.args[1]))
    node.graph.erase_node(node)


def _constant_pad(node: fx.Node) -> None:
    """Negative widths as slices, which is what they are."""
    x, widths, value = node.args
    if any(isinstance(width, fx.Node) for width in widths):  # by the number of images
        return
    for i, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        dim = kind_of(x).rank - 1 - i
        size = kind_of(x).shape[dim]
        if min(before, after) < 0 and isinstance(size, int):
            x = insert(node, aten.slice.Tensor, x, dim, max(0, -before), size - max(0, -after), 1)
    become(node, aten.constant_pad_nd.default, x, [max(0, width) for width in widths], value)
    if not any(node.args[1]):
        erase(node)


def _roll(node: fx.Node) -> None:
    x, shifts, dims = node.args
    node.args = (x, list(shifts), [dim % kind_of(x).rank for dim in dims])


# Choice by a mask


def _where(node: fx.Node) -> None:
    """A number in the place of one signal is a `masked_fill`."""
    mask, first, second = node.args
    if not isinstance(second, fx.Node) and depends_on_images(first):
        become(node, aten.masked_fill.Scalar, first, _not(node, mask), second)
    elif not isinstance(first, fx.Node) and depends_on_images(second):
        become(node, aten.masked_fill.Scalar, second, mask, first)
    repeat_signals(node)


def _masked_fill(node: fx.Node) -> None:
    """The value as a tensor without dimensions is chosen like any other."""
    x, mask, value = node.args
    if node.target is aten.masked_fill.Tensor:
        become(node, aten.where.self, mask, value, x)
    repeat_signals(node)


def _not(before: fx.Node, mask: fx.Node) -> fx.Node:
    known = value_of(mask)
    if known is not None:
        return constant(before, ~known)
    return insert(before, aten.logical_not.default, mask, type=kind_of(mask))


_RESHAPES: Sequence[Callable[..., Any]] = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze.default,
    aten.unsqueeze.default,
)

MOVEMENT: dict[Callable[..., Any], Callable[[fx.Node], None]] = {
    **dict.fromkeys((aten.clone.default, aten.alias.default, aten.contiguous.default), erase),
    **dict.fromkeys(_RESHAPES, _reshape),
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    **dict.fromkeys((aten.cat.default, aten.concat.default, aten.concatenate.default), _cat),
    aten.stack.default: _stack,
    aten.hstack.default: _hstack,
    aten.expand.default: _expand,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.pixel_unshuffle.default: _pixel_unshuffle,
    aten.channel_shuffle.default: _channel_shuffle,
    aten.slice.Tensor: _slice,
    aten.narrow.default: _narrow,
    aten.select.int: _select,
    aten.split.Tensor: _parts,
    aten.split_with_sizes.default: _parts,
    aten.unsafe_split.Tensor: _parts,
    aten.unsafe_split_with_sizes.default: _parts,
    aten.unsafe_chunk.default: _parts,
    aten.chunk.default: _parts,
    aten.unbind.int: _unbind,
    aten.constant_pad_nd.default: _constant_pad,
    aten.roll.default: _roll,
    **dict.fromkeys((aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf), _where),
    **dict.fromkeys((aten.masked_fill.Scalar, aten.masked_fill.Tensor), _masked_fill),
    **POSITIONS,
}
