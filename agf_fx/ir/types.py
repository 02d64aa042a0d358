"""Shapes and dtypes of graph values, with the batch size as the sympy symbol ``N``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import sympy
import torch
from torch import fx

BATCH = sympy.Symbol("N", integer=True, positive=True)

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
    """A tensor's shape (integers, and expressions in the batch size ``N``) and dtype."""

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
    def sample_shape(self) -> tuple[int, ...]:
        """The shape without the batch dimension."""
        return self.shape[1:]

    @property
    def sample_size(self) -> int:
        """Number of entries per sample."""
        return math.prod(self.sample_shape)

    def __str__(self) -> str:
        name = _SHORT.get(self.dtype, str(self.dtype).removeprefix("torch."))
        return f"{name}[{', '.join(map(str, self.shape))}]"


def type_of(value: object, batch: sympy.Expr | None = None) -> TensorType | tuple | None:
    """The type of a (fake) tensor, of a tuple of them, or None for anything else.

    Args:
        value: a tensor, whose sizes may be symbolic, or a nested tuple or list of tensors.
        batch: the symbol that stands for the batch size in ``value``; it becomes ``N``.
    """
    if isinstance(value, torch.Tensor):
        return TensorType(tuple(_dimension(size, batch) for size in value.shape), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(type_of(item, batch) for item in value)
    return None


def _dimension(size: int | torch.SymInt, batch: sympy.Expr | None) -> int | sympy.Expr:
    if isinstance(size, int):
        return size
    expression = size.node.expr if batch is None else size.node.expr.subs(batch, BATCH)
    return int(expression) if expression.is_Integer else expression


def carried_type(node: fx.Node) -> TensorType:
    """The type of the output of ``node`` that carries relevance: the first, where there are several."""
    kind = node.meta["type"]
    return kind[0] if isinstance(kind, tuple) else kind
