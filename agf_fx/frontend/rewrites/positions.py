"""Entries taken along single dimensions: flips, repetitions, padding from inside, windows, indices.

Each is written by the positions it takes (`taken`), in slices where these are regular.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from agf_fx.frontend.rewrites.editing import become, constant, give_way, insert, kind_of, resolve, sorted_anew, value_of
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten


def taken(before: fx.Node, x: fx.Node, dim: int, positions: Tensor) -> fx.Node:
    """The entries of ``x`` at ``positions`` (int64, of one dimension) along ``dim``, in the cheapest spelling."""
    size, count = kind_of(x).shape[dim], len(positions)
    every = torch.arange(size, device=positions.device)
    if torch.equal(positions, every):
        return x
    step = int(positions[1] - positions[0]) if count > 1 else 1
    start, times = int(positions[0]), max(1, count // size)
    if step > 0 and torch.equal(positions, torch.arange(start, start + step * count, step, device=positions.device)):
        return insert(before, aten.slice.Tensor, x, dim, start, start + step * (count - 1) + 1, step)
    if torch.equal(positions, every.repeat_interleave(times)):
        return _copies(before, x, dim, times, after=True)
    if torch.equal(positions, every.repeat(times)):
        return _copies(before, x, dim, times, after=False)
    return insert(before, aten.index_select.default, x, dim, constant(before, positions))


def _copies(before: fx.Node, x: fx.Node, dim: int, times: int, after: bool) -> fx.Node:
    """Every entry along ``dim`` ``times`` times: each right after itself, or all of them after one another."""
    shape, size = kind_of(x).free_batch, kind_of(x).shape[dim]
    if size == 1:
        return insert(before, aten.expand.default, x, [*shape[:dim], times, *shape[dim + 1 :]])
    new = dim + after
    column = insert(before, aten.reshape.default, x, [*shape[:new], 1, *shape[new:]])
    copies = insert(before, aten.expand.default, column, [*shape[:new], times, *shape[new:]])
    return insert(before, aten.reshape.default, copies, [*shape[:dim], size * times, *shape[dim + 1 :]])


def give_taken(node: fx.Node, positions: dict[int, Tensor]) -> None:
    """``node`` as the entries of its first argument at ``positions`` along each dimension that is a key."""
    x = node.args[0]
    if all(isinstance(kind_of(x).shape[dim], int) for dim in positions):
        for dim, given in positions.items():
            x = taken(node, x, dim, given)
        give_way(node, x)


def positions_of(movement: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """Where a movement of (1, 1, size) tensors takes its entries from: what it makes of 0, 1, 2, ..."""
    return movement(torch.arange(size, dtype=torch.float64).reshape(1, 1, size)).flatten().long()


def _padded_positions(size: int, widths: list[int], mode: str) -> Tensor:
    return positions_of(lambda line: torch.nn.functional.pad(line, widths, mode), size)


def _pad_from_inside(mode: str) -> Callable[[fx.Node], None]:
    """Padding by entries of the signal itself."""

    def rewrite(node: fx.Node) -> None:
        x, widths = node.args
        last, positions = kind_of(x).rank - 1, {}
        for i in range(len(widths) // 2):
            size, pair = kind_of(x).shape[last - i], list(widths[2 * i : 2 * i + 2])
            if not isinstance(size, int):
                return
            positions[last - i] = _padded_positions(size, pair, mode)
        give_taken(node, positions)

    return rewrite


def _flip(node: fx.Node) -> None:
    x, dims = node.args
    shape = kind_of(x).shape
    dims = [dim % len(shape) for dim in dims]
    if all(isinstance(shape[dim], int) for dim in dims):
        give_taken(node, {dim: torch.arange(shape[dim]).flip(0) for dim in dims})


def _flip_columns(node: fx.Node) -> None:
    """``fliplr``."""
    become(node, aten.flip.default, node.args[0], [1])
    _flip(node)


def _quarter_turns(node: fx.Node) -> None:
    """``rot90``: flips of one dimension or both, and an exchange of the two for an odd number of turns."""
    x, turns, dims = node.args
    shape = kind_of(x).shape
    first, second = (dim % len(shape) for dim in dims)
    if not isinstance(shape[first], int) or not isinstance(shape[second], int):
        return
    for dim in {0: (), 1: (second,), 2: (first, second), 3: (first,)}[turns % 4]:
        x = taken(node, x, dim, torch.arange(shape[dim]).flip(0))
    if turns % 2:
        order = list(range(len(shape)))
        order[first], order[second] = second, first
        x = insert(node, aten.permute.default, x, order)
    give_way(node, x)


def _repeat(node: fx.Node) -> None:
    """``repeat`` and ``tile``: the whole signal several times along each dimension; new dimensions come first."""
    x, times = node.args[0], list(node.args[1])
    if not depends_on_images(x):
        return  # such as a class token, once for every image
    shape = kind_of(x).free_batch
    rank = max(len(times), len(shape))
    times, shape = [1] * (rank - len(times)) + times, [1] * (rank - len(shape)) + shape
    if any(size == -1 and count != 1 for size, count in zip(shape, times, strict=True)):
        return
    if rank > kind_of(x).rank:
        x = insert(node, aten.reshape.default, x, shape)
        node.args = (x, times)
    give_taken(node, {dim: torch.arange(shape[dim]).repeat(n) for dim, n in enumerate(times) if n != 1})


def _repeat_interleave(node: fx.Node) -> None:
    """Every entry several times; windows may be made of every image, which are then counted with the images."""
    x, dim = node.args[0], node.args[2]
    if dim is None or not isinstance(node.args[1], int | fx.Node):
        return
    dim %= kind_of(x).rank
    times = kind_of(node).shape[dim] / kind_of(x).shape[dim]
    if times == int(times):
        shape = kind_of(x).free_batch
        column = insert(node, aten.reshape.default, x, [*shape[: dim + 1], 1, *shape[dim + 1 :]])
        copies = insert(node, aten.expand.default, column, [*shape[: dim + 1], int(times), *shape[dim + 1 :]])
        become(node, aten.reshape.default, copies, kind_of(node).free_batch)


def _windows(node: fx.Node) -> None:
    """``x.unfold(dim, size, step)``: the windows along ``dim``, their entries along a new last dimension."""
    x, dim, size, step = node.args
    kind = kind_of(x)
    dim %= kind.rank
    if not isinstance(kind.shape[dim], int):
        return
    count, shape = (kind.shape[dim] - size) // step + 1, kind.free_batch
    positions = torch.arange(count)[:, None] * step + torch.arange(size)
    windows = taken(node, x, dim, positions.flatten())
    windows = insert(node, aten.reshape.default, windows, [*shape[:dim], count, size, *shape[dim + 1 :]])
    order = [*range(dim + 1), *range(dim + 2, kind.rank + 1), dim + 1]
    become(node, aten.permute.default, windows, order)


def _patches(node: fx.Node) -> None:
    """``nn.Unfold``: (N, C, H, W) -> (N, C kh kw, positions), windows over zero-padded maps."""
    x, kernel, dilation, padding, stride = node.args
    if kind_of(x).rank != 4:
        return
    if any(padding):
        widths = [width for width in reversed(padding) for _ in range(2)]
        x = insert(node, aten.constant_pad_nd.default, x, widths, 0)
    shape = kind_of(x).free_batch[:2]
    for dim, k, d, s in zip((2, 3), kernel, dilation, stride, strict=True):
        count = (kind_of(x).shape[dim] - d * (k - 1) - 1) // s + 1
        x = taken(node, x, dim, (torch.arange(k)[:, None] * d + torch.arange(count) * s).flatten())
        shape += [k, count]
    node.args = (x,)
    sorted_anew(node, shape, [0, 1, 2, 4, 3, 5])


def _index_select(node: fx.Node) -> None:
    x, dim, index = node.args
    _index_by(node, dim % kind_of(x).rank, index)


def _index(node: fx.Node) -> None:
    """``x[:, index]``; a mask counts if the model's code fixes it, as it decides the shape."""
    given = [(dim, index) for dim, index in enumerate(node.args[1]) if index is not None]
    if len(given) == 1:
        _index_by(node, *given[0])
    else:
        _index_together(node, *zip(*given, strict=True))


def _index_together(node: fx.Node, dims: tuple[int, ...], indices: tuple[fx.Node, ...]) -> None:
    """``x[:, rows, columns]``: neighbouring dimensions as one, by the positions in it; the code fixes the indices."""
    x, known = node.args[0], [value_of(index) for index in indices]
    sizes, neighbours = kind_of(x).shape[dims[0] : dims[-1] + 1], dims[-1] - dims[0] == len(dims) - 1
    fixed = all(index is not None and index.dtype is torch.int64 for index in known)
    if not neighbours or not fixed or not all(isinstance(size, int) for size in sizes):
        return
    positions = torch.zeros((), dtype=torch.int64)
    for size, index in zip(sizes, known, strict=True):
        positions = positions * size + index % size
    _take_together(node, dims[0], len(dims), positions.flatten())


def _take_together(node: fx.Node, dim: int, count: int, positions: Tensor) -> None:
    """Entries of ``count`` dimensions from ``dim`` on, taken for one, in the shape of ``node``."""
    x, shape = node.args[0], kind_of(node.args[0]).free_batch
    flat = [*shape[:dim], math.prod(shape[dim : dim + count]), *shape[dim + count :]]
    flat = insert(node, aten.reshape.default, x, flat)
    give_way(node, insert(node, aten.reshape.default, taken(node, flat, dim, positions), kind_of(node).free_batch))


def _diagonal(node: fx.Node) -> None:
    """The entries with equal (or shifted) positions in two dimensions, along a new last one."""
    x, offset, first, second = node.args
    kind = kind_of(x)
    first, second = first % kind.rank, second % kind.rank
    rows, columns = kind.shape[first], kind.shape[second]
    if not isinstance(rows, int) or not isinstance(columns, int):
        return
    order = [*(dim for dim in range(kind.rank) if dim not in (first, second)), first, second]
    if order != list(range(kind.rank)):
        node.args = (insert(node, aten.permute.default, x, order), *node.args[1:])
    positions = torch.arange(rows * columns).reshape(rows, columns).diagonal(offset)
    _take_together(node, kind.rank - 2, 2, positions)


def _triangle(part: Callable[[Tensor, int], Tensor]) -> Callable[[fx.Node], None]:
    """``tril`` and ``triu``: zeros outside of a triangle of the last two dimensions."""

    def rewrite(node: fx.Node) -> None:
        x, offset = node.args
        rows, columns = kind_of(x).shape[-2:]
        if depends_on_images(x) and isinstance(rows, int) and isinstance(columns, int):
            inside = part(torch.ones(rows, columns, dtype=torch.bool), offset)
            become(node, aten.masked_fill.Scalar, x, constant(node, ~inside), 0)

    return rewrite


def _index_by(node: fx.Node, dim: int, index: fx.Node) -> None:
    x, kind, known = node.args[0], kind_of(index), value_of(index)
    size = kind_of(x).shape[dim]
    if not isinstance(size, int) or depends_on_images(index):
        if node.target is aten.index_select.default:
            node.args = (x, dim, index)  # refused for mixing samples
        return
    if known is not None and kind.dtype is torch.bool and kind.rank == 1:
        known = known.nonzero().flatten()
        resolve(node.graph, kind_of(node).shape[dim], len(known))
    elif kind.dtype in (torch.bool, torch.uint8):
        return
    if known is not None:
        result = taken(node, x, dim, known.long().flatten() % size)
    else:
        result = insert(node, aten.index_select.default, x, dim, _weight_positions(node, index, size))
    if kind.rank != 1:
        result = insert(node, aten.reshape.default, result, kind_of(node).free_batch)
    give_way(node, result)


def _weight_positions(before: fx.Node, index: fx.Node, size: int) -> fx.Node:
    """An index that the model stores, in one dimension, with negative positions counted from the end."""
    if kind_of(index).rank != 1:
        index = insert(before, aten.reshape.default, index, [math.prod(kind_of(index).shape)])
    return insert(before, aten.remainder.Scalar, index, size, type=kind_of(index))


POSITIONS: dict[Callable[..., Any], Callable[[fx.Node], None]] = {
    **dict.fromkeys((aten.reflection_pad1d.default, aten.reflection_pad2d.default), _pad_from_inside("reflect")),
    aten.reflection_pad3d.default: _pad_from_inside("reflect"),
    **dict.fromkeys((aten.replication_pad1d.default, aten.replication_pad2d.default), _pad_from_inside("replicate")),
    aten.replication_pad3d.default: _pad_from_inside("replicate"),
    aten._pad_circular.default: _pad_from_inside("circular"),
    aten.flip.default: _flip,
    aten.fliplr.default: _flip_columns,
    aten.rot90.default: _quarter_turns,
    **dict.fromkeys((aten.repeat.default, aten.tile.default), _repeat),
    aten.repeat_interleave.self_int: _repeat_interleave,
    aten.unfold.default: _windows,
    aten.im2col.default: _patches,
    aten.index_select.default: _index_select,
    aten.index.Tensor: _index,
    aten.diagonal.default: _diagonal,
    aten.tril.default: _triangle(torch.tril),
    aten.triu.default: _triangle(torch.triu),
}
