"""Sums, means, extremes and norms over dimensions; softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from agf_fx.exports.onnx.sizes import Type
from agf_fx.exports.onnx.values import Inexpressible, Value, apply, cast

aten = torch.ops.aten

Lowering = Callable[..., Any]

_NORMS = {1: "ReduceL1", 2: "ReduceL2", float("inf"): "ReduceMax", float("-inf"): "ReduceMin"}


def reduced(op: str, x: Value, dims: int | Sequence[int] | None, keepdim: bool = False) -> Value:
    """An ONNX reduction over dimensions; over all where none is named."""
    dims = [dims] if isinstance(dims, int) else dims
    axes = [dim % x.rank for dim in dims] if dims else list(range(x.rank))
    return apply(op, x, axes, keepdims=int(keepdim))


def mean(x: Value, dims: Sequence[int], keepdim: bool = True) -> Value:
    """Over the last dimensions, counted from the end."""
    return apply("ReduceMean", x, list(dims), keepdims=int(keepdim))


def _reduction(op: str) -> Lowering:
    def lowered(kind: Type, x: Value, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
        return reduced(op, cast(x, kind.dtype), dims, keepdim)

    return lowered


def _norm(kind: Type, x: Value, order: float, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    if order not in _NORMS:
        raise Inexpressible(f"its order is {order}")
    if abs(order) == float("inf"):
        x = replace(apply("Abs", x), kind=x.kind)
    return reduced(_NORMS[order], x, dims, keepdim)


def _softmax(op: str) -> Lowering:
    return lambda kind, x, dim, dtype=None: apply(op, cast(x, kind.dtype), axis=dim % x.rank)


REDUCTIONS: dict[Callable[..., Any], Lowering] = {
    aten.sum.dim_IntList: _reduction("ReduceSum"),
    aten.sum.default: _reduction("ReduceSum"),
    aten.mean.dim: _reduction("ReduceMean"),
    aten.mean.default: _reduction("ReduceMean"),
    aten.amax.default: _reduction("ReduceMax"),
    aten.amin.default: _reduction("ReduceMin"),
    aten.logsumexp.default: _reduction("ReduceLogSumExp"),
    aten.linalg_vector_norm.default: _norm,
    aten.softmax.int: _softmax("Softmax"),
    aten.log_softmax.int: _softmax("LogSoftmax"),
    aten._softmax.default: lambda kind, x, dim, _: _softmax("Softmax")(kind, x, dim),
    aten._log_softmax.default: lambda kind, x, dim, _: _softmax("LogSoftmax")(kind, x, dim),
}
