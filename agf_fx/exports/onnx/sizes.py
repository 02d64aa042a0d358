"""Dtypes and sizes of a graph of ATen operations, and which sizes are free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

# Images and targets of two runs: sizes that differ between them are free, and these are their names.
_BATCHES = ((3, 2), (5, 7))
_FREE = {"N": (3, 5), "K": (2, 7), "NK": (6, 35)}


@dataclass(frozen=True)
class Type:
    """Of a tensor: its dtype, and its sizes; "N", "K", "NK", "2N" or the like where free, None for any other."""

    dtype: torch.dtype
    shape: tuple[int | str | None, ...]


class _OnMeta(fx.Interpreter):
    """Runs a graph on the meta device, where operations have shapes and no values."""

    def get_attr(self, target: str, args: Any, kwargs: Any) -> Tensor:
        """A weight's shape."""
        return super().get_attr(target, args, kwargs).to("meta")


def infer_types(module: fx.GraphModule, images: Tensor, target: Tensor) -> dict[fx.Node, Any]:
    """The type of every node: a Type, a tuple of them, or of a number the number, None where it is free.

    Args:
        module: ``(images, target) -> (maps, logits)``.
        images, target: examples of both; sizes after the first are kept.
    """
    runs = [_run(module, images, target, *batch) for batch in _BATCHES]
    return {node: _merged(*(run[node] for run in runs)) for node in module.graph.nodes if node.op != "output"}


def _run(module: fx.GraphModule, images: Tensor, target: Tensor, count: int, targets: int) -> dict[fx.Node, Any]:
    interpreter = _OnMeta(module, garbage_collect_values=False)
    interpreter.run(
        torch.empty(count, *images.shape[1:], dtype=images.dtype, device="meta"),
        torch.empty(count, targets, dtype=target.dtype, device="meta"),
    )
    return interpreter.env


def _merged(one: Any, other: Any) -> Any:
    if isinstance(one, Tensor):
        return Type(one.dtype, tuple(map(_size, one.shape, other.shape)))
    if isinstance(one, tuple | list):
        return tuple(map(_merged, one, other))
    return one if one == other else None


def _size(one: int, other: int) -> int | str | None:
    if one == other:
        return one
    for name, sizes in _FREE.items():
        times = one // sizes[0]
        if (one, other) == (times * sizes[0], times * sizes[1]):
            return name if times == 1 else f"{times}{name}"
    return None
