"""Data movement: shapes, parts, joined parts, and tensors of one number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from agf_fx.exports.onnx.sizes import Type
from agf_fx.exports.onnx.values import Value, apply, cast, vector

aten = torch.ops.aten

Lowering = Callable[..., Any]
Size = int | Value

_END = 2**62  # of a slice: as far as there is


def reshaped(x: Value, shape: Sequence[Size]) -> Value:
    """In another shape; -1 for the size that follows from the others, 0 for that of ``x`` at the same place."""
    return apply("Reshape", x, list(shape))


def _reshape(kind: Type, x: Value, shape: Sequence[Size]) -> Value:
    free = sum(not isinstance(size, int) for size in kind.shape)
    return reshaped(x, [size if isinstance(size, int) else -1 for size in kind.shape] if free <= 1 else shape)


def _flatten(kind: Type, x: Value, start: int = 0, end: int = -1) -> Value:
    """The merged size is known, or it is what remains; sizes in front stay."""
    start = start % x.rank if x.rank else 0
    sizes = [size if isinstance(size, int) else None for size in kind.shape]
    kept = [0 if size is None else size for size in sizes[:start]]
    if sizes[start:].count(None) <= 1:
        return reshaped(x, [*kept, *(-1 if size is None else size for size in sizes[start:])])
    behind = [size_of(x, dim) for dim in range(end % x.rank + 1, x.rank)]
    return reshaped(x, [*kept, -1, *behind])


def size_of(x: Value, dim: int) -> Size:
    """A size, as a number where it is known."""
    dim %= x.rank
    size = x.shape[dim]
    return size if isinstance(size, int) else apply("Shape", x, start=dim, end=dim + 1, dtypes=torch.int64)


def shape_of(x: Value, start: int = 0, end: int | None = None) -> Value:
    """The sizes as a vector."""
    return vector(x.writer, [size_of(x, dim) for dim in range(x.rank)[start:end]])


def permuted(x: Value, order: Sequence[int]) -> Value:
    """Dimensions in another order."""
    return apply("Transpose", x, perm=[dim % len(order) for dim in order])


def _transpose(kind: Type, x: Value, first: int, second: int) -> Value:
    order = list(range(x.rank))
    order[first], order[second] = order[second], order[first]
    return permuted(x, order)


def _unsqueeze(kind: Type, x: Value, dim: int) -> Value:
    return apply("Unsqueeze", x, [dim % (x.rank + 1)])


def _squeeze(kind: Type, x: Value, dims: int | Sequence[int]) -> Value:
    dims = [dims] if isinstance(dims, int) else dims
    single = [dim % x.rank for dim in dims if x.shape[dim] == 1]
    return apply("Squeeze", x, single) if single else x


def expanded(x: Value, shape: Sequence[Size]) -> Value:
    """Repeated; -1 keeps a size."""
    return apply("Expand", x, [1 if isinstance(size, int) and size == -1 else size for size in shape])


def sliced(x: Value, dim: int, start: int, end: int, step: int = 1) -> Value:
    """Entries from start to end along one dimension; negative positions count from the end."""
    return apply("Slice", x, [start], [min(end, _END)], [dim], [step])


def _slice(kind: Type, x: Value, dim: int, start: int | None, end: int | None, step: int = 1) -> Value:
    return sliced(x, dim % x.rank, start or 0, _END if end is None else end, step)


def _narrow(kind: Type, x: Value, dim: int, start: int, length: int) -> Value:
    end = start + length
    return sliced(x, dim % x.rank, start, _END if start < 0 and end == 0 else end)


def _select(kind: Type, x: Value, dim: int, index: int) -> Value:
    at = x.writer.constant(torch.tensor(index))
    return apply("Gather", x, at, axis=dim % x.rank)


def _chunk(kind: tuple[Type, ...], x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    dim %= x.rank
    dtypes, sizes = (x.dtype,) * len(kind), [part.shape[dim] for part in kind]
    if len(kind) == 1:
        return (x,)
    if all(isinstance(size, int) for size in sizes):
        return apply("Split", x, sizes, axis=dim, dtypes=dtypes)
    return apply("Split", x, axis=dim, num_outputs=len(kind), dtypes=dtypes)


def joined(parts: Sequence[Value], dim: int) -> Value:
    """One behind the other."""
    return apply("Concat", *parts, axis=dim) if len(parts) > 1 else parts[0]


def _cat(kind: Type, parts: Sequence[Value], dim: int = 0) -> Value:
    return joined([cast(part, kind.dtype) for part in parts], dim % len(kind.shape))


def padded(x: Value, before: Sequence[int], after: Sequence[int], value: float = 0) -> Value:
    """A number before and after the entries, in each of the last dimensions; negative widths take entries away."""
    first = x.rank - len(before)
    for place, widths in enumerate(zip(before, after, strict=True)):
        start, end = (max(0, -width) for width in widths)
        if start or end:
            x = sliced(x, first + place, start, -end if end else _END)
    widths = [*[0] * first, *(max(0, w) for w in before), *[0] * first, *(max(0, w) for w in after)]
    return apply("Pad", x, widths, value) if any(widths) else x


def _constant_pad(kind: Type, x: Value, widths: Sequence[int], value: float = 0) -> Value:
    return padded(x, widths[-2::-2], widths[::-2], value)


def _roll(kind: Type, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    result = x if dims else reshaped(x, [-1])
    for shift, dim in zip(shifts, dims or [0], strict=True):
        size = x.shape[dim] if dims else math.prod(size for size in x.shape)
        cut = -(shift % size)
        if cut:
            result = joined([sliced(result, dim, cut, _END), sliced(result, dim, 0, cut)], dim % x.rank)
    return result if dims else reshaped(result, list(kind.shape))


def filled(kind: Type, shape: Value, value: float, writer: Any) -> Value:
    """A tensor of one number."""
    number = writer.constant(torch.tensor(value, dtype=kind.dtype))
    return apply("Expand", number, shape)


def _filled_like(value: float) -> Lowering:
    return lambda kind, x, **_: filled(kind, shape_of(x), value, x.writer)


def _new(value: float) -> Lowering:
    return lambda kind, x, shape, **_: filled(kind, vector(x.writer, shape), value, x.writer)


def _same(kind: Type, x: Value, *_: Any, **__: Any) -> Value:
    return cast(x, kind.dtype)


MOVEMENT: dict[Callable[..., Any], Lowering] = {
    **dict.fromkeys((aten.reshape.default, aten.view.default, aten._unsafe_view.default), _reshape),
    aten.flatten.using_ints: _flatten,
    aten.permute.default: lambda kind, x, order: permuted(x, order),
    aten.transpose.int: _transpose,
    aten.t.default: lambda kind, x: permuted(x, range(x.rank)[::-1]),
    aten.unsqueeze.default: _unsqueeze,
    **dict.fromkeys((aten.squeeze.dim, aten.squeeze.dims), _squeeze),
    aten.expand.default: lambda kind, x, shape, **_: expanded(x, shape),
    aten.slice.Tensor: _slice,
    aten.narrow.default: _narrow,
    aten.select.int: _select,
    aten.chunk.default: _chunk,
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _constant_pad,
    aten.roll.default: _roll,
    aten.sym_size.int: lambda kind, x, dim: size_of(x, dim),
    **dict.fromkeys((aten.zeros_like.default, aten.empty_like.default, aten.zero.default), _filled_like(0)),
    aten.ones_like.default: _filled_like(1),
    **dict.fromkeys(
        (aten.full_like.default, aten.fill.Scalar),
        lambda kind, x, value, **_: filled(kind, shape_of(x), value, x.writer),
    ),
    **dict.fromkeys((aten.new_zeros.default, aten.new_empty.default), _new(0)),
    aten.new_ones.default: _new(1),
    aten.new_full.default: lambda kind, x, shape, value, **_: filled(kind, vector(x.writer, shape), value, x.writer),
    **dict.fromkeys(
        (
            aten.to.dtype,
            aten._to_copy.default,
            aten.contiguous.default,
            aten.clone.default,
            aten.alias.default,
            aten.detach.default,
        ),
        _same,
    ),
}
