"""Pieces of joined values: what is taken out of a ``cat`` is what went in, and sums of pieces are pieces of sums."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.frontend.rewrites.arithmetic import new
from agf_fx.frontend.rewrites.editing import give_way, insert, kind_of
from agf_fx.frontend.rewrites.values import is_call, known
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten

_SUMS = (aten.add.Tensor, aten.sub.Tensor)


def take_pieces(node: fx.Node) -> None:
    """A slice, or an entry, of joined values as what it is a piece of; and a ``cat`` of sums as the sum of two."""
    if is_call(node, aten.slice.Tensor):
        x, dim, start, end, step = node.args
        if step == 1:
            _piece(node, x, dim, start, end)
    elif is_call(node, aten.select.int):
        x, dim, index = node.args
        _piece(node, x, dim, index, index + 1)
    elif is_call(node, aten.index_select.default):
        _rows(node)
    elif is_call(node, aten.cat.default):
        _cat_of_sums(node)


def _rows(node: fx.Node) -> None:
    """Consecutive entries, or the order turned round twice."""
    x, dim, index = node.args
    rows = known(index)
    if rows is None or rows.dim() != 1 or len(rows) == 0:
        return None
    if torch.equal(rows, torch.arange(int(rows[0]), int(rows[0]) + len(rows)).to(rows)):
        return _piece(node, x, dim, int(rows[0]), int(rows[0]) + len(rows))
    if is_call(x, aten.index_select.default) and x.args[1] == dim and len(x.users) == 1:
        before = known(x.args[2])
        if before is not None and torch.equal(before[rows], torch.arange(kind_of(x.args[0]).shape[dim]).to(before)):
            return give_way(node, x.args[0])
    return None


def _piece(node: fx.Node, x: fx.Node, dim: int, start: int, end: int) -> None:
    """Entries ``start`` to ``end`` of a ``cat`` along ``dim``: of one item or several whole ones; or within padding."""
    if is_call(x, aten.constant_pad_nd.default):
        return _within_padding(node, x, dim, start, end)
    if not is_call(x, aten.cat.default) or x.args[1] != dim or not all(isinstance(i, int) for i in (start, end)):
        return
    position, whole_items = 0, []
    for item in x.args[0]:
        size = kind_of(item).shape[dim]
        if not isinstance(size, int):
            return
        if position <= start and end <= position + size:
            if not depends_on_images(item):
                return
            whole = end - start == size
            piece = item if whole else insert(node, aten.slice.Tensor, item, dim, start - position, end - position, 1)
            if kind_of(piece).shape != kind_of(node).shape:  # an entry, whose dimension is gone
                piece = insert(node, aten.reshape.default, piece, kind_of(node).free_batch)
            return give_way(node, piece)
        if start <= position and position + size <= end:
            whole_items.append(item)
        position += size
    if is_call(node, aten.slice.Tensor) and sum(kind_of(item).shape[dim] for item in whole_items) == end - start:
        give_way(node, insert(node, aten.cat.default, whole_items, dim))
    return None


def _within_padding(node: fx.Node, padded: fx.Node, dim: int, start: int, end: int) -> None:
    """Entries of a padded value that are all its own along ``dim``: cut there, and padded elsewhere."""
    x, widths, value = padded.args
    place = 2 * (kind_of(x).rank - 1 - dim)
    if not is_call(node, aten.slice.Tensor) or place >= len(widths) or len(padded.users) != 1:
        return
    before, size = widths[place], kind_of(x).shape[dim]
    if not all(isinstance(number, int) for number in (before, size, start, end)) or not any(widths[place : place + 2]):
        return
    if start < before or end > before + size or not depends_on_images(x):
        return
    if end - start < size:
        x = insert(node, aten.slice.Tensor, x, dim, start - before, end - before, 1)
    others = [0 if place <= i < place + 2 else width for i, width in enumerate(widths)]
    give_way(node, insert(node, aten.constant_pad_nd.default, x, others, value) if any(others) else x)


def _cat_of_sums(node: fx.Node) -> None:
    """cat(a₁ + b₁, a₂ + b₂) = cat(a₁, a₂) + cat(b₁, b₂), where these are all parts of a and of b, see `straighten`."""
    items, dim = node.args
    first = items[0]
    if not is_call(first, *_SUMS) or not all(is_call(item, first.target) and len(item.users) == 1 for item in items):
        return
    sides = [[item.args[i] for item in items] for i in (0, 1)]
    if all(_is_part(term) for side in sides for term in side):
        joined = [insert(node, aten.cat.default, side, dim) for side in sides]
        give_way(node, new(node, first.target, *joined))


def _is_part(value: object) -> bool:
    return depends_on_images(value) and is_call(value, aten.slice.Tensor, aten.select.int, aten.index_select.default)
