"""Writing into parts of a tensor, as ``x[:, 1] = y``, which a functional program spells as scatter: joined parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import become, broadcast, constant, give_way, insert, kind_of, like, value_of
from agf_fx.frontend.rewrites.positions import taken
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten


def _slice_scatter(node: fx.Node) -> None:
    """``x`` with ``y`` in the place of a slice."""
    x, y, dim, start, end, step = node.args
    dim %= kind_of(x).rank
    size = kind_of(x).shape[dim]
    if kind_of(y).shape == kind_of(x).shape:
        give_way(node, y)
    elif isinstance(size, int):
        positions = torch.arange(size)
        positions[slice(start, end, step)] = size + torch.arange(kind_of(y).shape[dim])
        _replaced(node, x, y, dim, positions)


def _select_scatter(node: fx.Node) -> None:
    """``x`` with ``y``, which has a dimension less, in the place of one entry along ``dim``."""
    x, y, dim, index = node.args
    dim %= kind_of(x).rank
    size = kind_of(x).shape[dim]
    if isinstance(size, int):
        shape = kind_of(x).free_batch
        row = insert(node, aten.reshape.default, y, [*shape[:dim], 1, *shape[dim + 1 :]])
        positions = torch.arange(size)
        positions[index] = size
        _replaced(node, x, row, dim, positions)


def _index_put(node: fx.Node) -> None:
    """The same by a mask, or by a list of positions that the model's code fixes, and that has none twice."""
    x, indices, y, accumulate = node.args
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if accumulate or len(given) != 1:
        return
    ((dim, index),) = given
    known, number = value_of(index), value_of(y)
    number = number.item() if number is not None and number.numel() == 1 else None
    if kind_of(index).dtype is torch.bool and number is not None:
        _filled_by_mask(node, x, dim, index, number)
    elif known is not None and kind_of(index).rank == 1 and isinstance(kind_of(x).shape[dim], int):
        if depends_on_images(y):
            _put(node, dim, known, y)
        elif number is not None:
            _filled(node, x, dim, known, number)


def _put(node: fx.Node, dim: int, index: torch.Tensor, y: fx.Node) -> None:
    x, shape = node.args[0], kind_of(node.args[0]).free_batch
    if index.dtype is not torch.int64 or len(set((index % shape[dim]).tolist())) < len(index):
        return
    positions = torch.arange(shape[dim])
    positions[index] = shape[dim] + torch.arange(len(index))
    _replaced(node, x, broadcast(node, y, [*shape[:dim], len(index), *shape[dim + 1 :]]), dim, positions)


def _filled_by_mask(node: fx.Node, x: fx.Node, dim: int, mask: fx.Node, value: float) -> None:
    """A number where a mask of the dimensions from ``dim`` on says so."""
    behind = kind_of(x).rank - dim - kind_of(mask).rank
    if behind:
        mask = insert(node, aten.reshape.default, mask, [*kind_of(mask).free_batch, *[1] * behind])
    become(node, aten.masked_fill.Scalar, x, mask, value)


def _index_fill(node: fx.Node) -> None:
    """A number in the place of the entries at positions that the model's code fixes."""
    x, dim, index, value = node.args
    dim %= kind_of(x).rank
    known, number = value_of(index), value_of(value) if isinstance(value, fx.Node) else torch.tensor(value)
    if known is not None and number is not None and isinstance(kind_of(x).shape[dim], int):
        _filled(node, x, dim, known, number.item())


def _filled(node: fx.Node, x: fx.Node, dim: int, index: torch.Tensor, value: float) -> None:
    mask = torch.zeros(kind_of(x).shape[dim], dtype=torch.bool)
    mask[index] = True
    column = mask.reshape([-1, *[1] * (kind_of(x).rank - 1 - dim)])
    become(node, aten.masked_fill.Scalar, x, constant(node, column), value)


def _replaced(node: fx.Node, x: fx.Node, y: fx.Node, dim: int, positions: torch.Tensor) -> None:
    """``node`` as entries of ``x``, and of ``y``, which are counted behind those of ``x``, along ``dim``.

    Runs of neighbours are slices; what is overwritten is not read at all.
    """
    size = kind_of(x).shape[dim]
    cuts = [i for i in range(1, size) if (positions[i] < size) != (positions[i - 1] < size)]
    parts = []
    for start, end in zip([0, *cuts], [*cuts, size], strict=True):
        run = positions[start:end]
        parts.append(taken(node, x, dim, run) if run[0] < size else taken(node, y, dim, run - size))
    give_way(node, insert(node, aten.cat.default, parts, dim) if len(parts) > 1 else parts[0])


def _copy(node: fx.Node) -> None:
    """``x.copy_(y)``: y in shape and dtype of x."""
    x, y = node.args[:2]
    if kind_of(x).dtype is not kind_of(y).dtype:
        y = insert(node, aten.to.dtype, y, kind_of(x).dtype)
    give_way(node, like(node, y, x))


def _fill(node: fx.Node) -> None:
    """``x.fill_(y)`` with a tensor without dimensions."""
    x, y = node.args
    become(node, aten.copy.default, x, y)
    _copy(node)


WRITING: dict[Callable[..., Any], Callable[[fx.Node], None]] = {
    aten.slice_scatter.default: _slice_scatter,
    aten.select_scatter.default: _select_scatter,
    aten.index_put.default: _index_put,
    **dict.fromkeys((aten.index_fill.int_Scalar, aten.index_fill.int_Tensor), _index_fill),
    aten.copy.default: _copy,
    aten.fill.Tensor: _fill,
}
