"""Shapes and dtypes of graph values, with the batch size as the sympy symbol ``N`` and the targets as ``K``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

BATCH = sympy.Symbol("N", integer=True, positive=True)
TARGETS = sympy.Symbol("K", integer=True, positive=True)

MOST_IMAGES = 2**16 - 1
"""Images in a batch, where torch.export is told a bound. PyTorch gives cuDNN's batch norms no more at a time, so
that on a GPU it exports no batch norm of a batch without bound."""

Symbols = Mapping[sympy.Expr, sympy.Expr]

_SHORT = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "bool",
}


@dataclass(frozen=True)
class TensorType:
    """A tensor's shape (integers, and expressions in ``N`` and ``K``) and dtype."""

    shape: tuple[int | sympy.Expr, ...]
    dtype: torch.dtype

    @property
    def rank(self) -> int:
        """Number of dimensions, the batch dimension included."""
        return len(self.shape)

    @property
    def batched(self) -> bool:
        """Whether the first dimension is exactly the batch size."""
        return bool(self.shape) and self.shape[0] == BATCH

    @property
    def batch_dim(self) -> int | None:
        """The one dimension whose size depends on the batch; None where there is none, or several.

        It is the first in feature maps. Tokens may stand before it, and windows may be counted with it (N·64).
        """
        dims = [dim for dim, size in enumerate(self.shape) if not isinstance(size, int)]
        return dims[0] if len(dims) == 1 else None

    @property
    def free_batch(self) -> list[int]:
        """The shape with -1 for the batch dimension, as ``reshape`` and ``expand`` take it."""
        return [size if isinstance(size, int) else -1 for size in self.shape]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape without the batch dimension."""
        return self.shape[1:]

    @property
    def sample_dims(self) -> list[int]:
        """The dimensions that belong to one sample, counted from the end: all but the batch dimension."""
        return [dim - self.rank for dim in range(self.rank) if dim != self.batch_dim]

    @property
    def entries(self) -> int | sympy.Expr:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def sample_size(self) -> int:
        """Number of entries per sample."""
        return math.prod(self.sample_shape)

    def __str__(self) -> str:
        name = _SHORT.get(self.dtype, str(self.dtype).removeprefix("torch."))
        return f"{name}[{', '.join(map(str, self.shape))}]"


def type_of(value: object, symbols: Symbols | None = None) -> TensorType | tuple | sympy.Expr | None:
    """The type of a (fake) tensor, a tuple of types, the expression of a symbolic number, or None for anything else.

    Args:
        value: a tensor, whose sizes may be symbolic, or a nested tuple or list of tensors.
        symbols: what the symbols in the sizes of ``value`` stand for, such as `BATCH`.
    """
    if isinstance(value, torch.Tensor):
        return TensorType(tuple(_dimension(size, symbols or {}) for size in value.shape), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(type_of(item, symbols) for item in value)
    if isinstance(value, torch.SymInt):
        return value.node.expr.subs(symbols or {})
    return None


def _dimension(size: int | torch.SymInt, symbols: Symbols) -> int | sympy.Expr:
    if isinstance(size, int):
        return size
    expression = size.node.expr.subs(symbols)
    return int(expression) if expression.is_Integer else expression


def carried_type(node: fx.Node) -> TensorType:
    """The type of the output of ``node`` that carries relevance: the first, where there are several."""
    kind = node.meta["type"]
    return kind[0] if isinstance(kind, tuple) else kind


def typed(argument: Any) -> Any:
    """An argument of a call, with types in the place of nodes."""
    if isinstance(argument, fx.Node):
        return argument.meta["type"]
    return [typed(item) for item in argument] if isinstance(argument, tuple | list) else argument
