"""Reading and writing by index, and ranks."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from agf_fx.exports.onnx.movement import reshaped, shape_of
from agf_fx.exports.onnx.sizes import Type
from agf_fx.exports.onnx.values import Inexpressible, Value, apply, cast

aten = torch.ops.aten

Lowering = Callable[..., Any]


def _sort(kind: Any, x: Value, *, stable: bool | None, dim: int = -1, descending: bool = False) -> tuple[Value, ...]:
    """All entries as the largest k; TopK ranks equal entries by position, as a stable sort does."""
    size = x.shape[dim]
    if not isinstance(size, int):
        raise Inexpressible("it sorts over images")
    return apply("TopK", x, [size], axis=dim % x.rank, largest=int(descending), sorted=1, dtypes=(x.dtype, torch.int64))


def _scatter_value(kind: Type, x: Value, dim: int, index: Value, value: float) -> Value:
    updates = apply("Expand", x.writer.constant(torch.tensor(value, dtype=x.dtype)), shape_of(index))
    return apply("ScatterElements", x, index, updates, axis=dim % x.rank)


def scatter_added(x: Value, dim: int, index: Value, updates: Value) -> Value:
    """``x`` with the updates added at the positions ``index`` along ``dim``."""
    return apply("ScatterElements", x, index, updates, axis=dim, reduction="add")


def _index_add(kind: Type, x: Value, dim: int, index: Value, source: Value, alpha: float = 1) -> Value:
    dim %= x.rank
    column = reshaped(index, [-1 if place == dim else 1 for place in range(x.rank)])
    positions = apply("Expand", cast(column, torch.int64), shape_of(source))
    return scatter_added(x, dim, positions, source if alpha == 1 else source * alpha)


INDEXING: dict[Callable[..., Any], Lowering] = {
    operator.getitem: lambda kind, values, index: values[index],
    aten.sort.stable: _sort,
    aten.gather.default: lambda kind, x, dim, index, **_: apply("GatherElements", x, index, axis=dim % x.rank),
    aten.scatter.value: _scatter_value,
    aten.index_select.default: lambda kind, x, dim, index: apply("Gather", x, index, axis=dim % x.rank),
    aten.index_add.default: _index_add,
}
