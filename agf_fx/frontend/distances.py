"""Distances between the rows of two tensors, by one formula for every number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Distances(TorchFunctionMode):
    """Lets ``torch.cdist`` be ‖a - b‖, in this thread.

    PyTorch computes it from products as soon as one of the two has more than 25 rows, so that a graph of it would hold
    for some batch sizes alone.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The call, unless it is that."""
        return (_distances if func is torch.cdist else func)(*args, **(kwargs or {}))


def _distances(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "") -> Tensor:
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, dim=-1)
