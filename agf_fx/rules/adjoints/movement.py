"""Data movement: every gradient entry goes back to where its value came from."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from agf_fx.rules.numerics import Value
from agf_fx.rules.site import Site, Vjp

aten = torch.ops.aten


def pad(a: Value, rank: int, dim: int, before: int, after: int) -> Value:
    """Zeros before and after in one dimension of (K, ...); a negative number takes entries away.

    Args:
        a: (K, ...).
        rank: number of dimensions without the targets.
        dim: the dimension, counted without the targets.
        before, after: how many.
    """
    if before == after == 0:
        return a
    return aten.constant_pad_nd.default(a, [0, 0] * (rank - 1 - dim) + [before, after], 0)


def _cat(site: Site, g: Value) -> tuple[Value, ...]:
    dim, starts = site.args[1], [0]
    for kind in site.types:
        starts.append(starts[-1] + kind.shape[dim])
    return tuple(torch.narrow(g, dim + 1, a, b - a) for a, b in itertools.pairwise(starts))


def _permute(site: Site, g: Value) -> tuple[Value, ...]:
    order = site.args[1]
    return (torch.permute(g, [0, *(order.index(dim) + 1 for dim in range(len(order)))]),)


def _expand(site: Site, g: Value) -> tuple[Value, ...]:
    """The sum over the copies."""
    x, y = site.x_type.shape, site.y_type.shape
    new = len(y) - len(x)
    repeated = [new + dim + 1 for dim, size in enumerate(x) if size == 1 and y[new + dim] != 1]
    if repeated:
        g = torch.sum(g, repeated, True)
    return (torch.sum(g, [*range(1, new + 1)]),) if new else (g,)


def _slice(site: Site, g: Value) -> tuple[Value, ...]:
    """Zeros where nothing was read: between the entries for steps above 1, and at both ends."""
    _, dim, start, _, step = site.args
    size, taken = site.x_type.shape[dim], site.y_type.shape[dim]
    if step > 1:
        spaced = pad(torch.unsqueeze(g, dim + 2), site.x_type.rank + 1, dim + 1, 0, step - 1)
        g = torch.flatten(spaced, dim + 1, dim + 2)
    return (pad(g, site.x_type.rank, dim, start, size - start - taken * step),)


def _select(site: Site, g: Value) -> tuple[Value, ...]:
    _, dim, index = site.args
    behind = site.x_type.shape[dim] - index - 1
    return (pad(torch.unsqueeze(g, dim + 1), site.x_type.rank, dim, index, behind),)


def _index_select(site: Site, g: Value) -> tuple[Value, ...]:
    _, dim, index = site.args
    shape = [aten.sym_size.int(g, d) for d in range(site.x_type.rank + 1)]
    shape[dim + 1] = site.x_type.shape[dim]
    return (aten.index_add.default(aten.new_zeros.default(g, shape), dim + 1, index, g),)


def _roll(site: Site, g: Value) -> tuple[Value, ...]:
    _, shifts, dims = site.args
    return (aten.roll.default(g, [-shift for shift in shifts], [dim + 1 for dim in dims]),)


def _where(site: Site, g: Value) -> tuple[Value, ...]:
    """To each operand, what was taken from it."""
    mask = site.args[0]
    return torch.masked_fill(g, aten.logical_not.default(mask), 0.0), torch.masked_fill(g, mask, 0.0)


MOVEMENT: dict[Callable[..., object], Vjp] = {
    aten.reshape.default: lambda site, g: (torch.reshape(g, [site.targets, *site.x_type.free_batch]),),
    aten.permute.default: _permute,
    aten.cat.default: _cat,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.index_select.default: _index_select,
    aten.roll.default: _roll,
    aten.constant_pad_nd.default: lambda site, g: (
        aten.constant_pad_nd.default(g, [-width for width in site.args[1]], 0),
    ),
    aten.where.self: _where,
    aten.to.dtype: lambda site, g: (aten.to.dtype(g, site.x_type.dtype),),
    aten.masked_fill.Scalar: lambda site, g: (torch.masked_fill(g, site.args[1], 0.0),),
}
