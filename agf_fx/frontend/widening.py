"""Models in half precision as models in float32: what their forward pass casts to half precision stays whole."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

REDUCED = (torch.float16, torch.bfloat16)
_CASTS = (Tensor.half, Tensor.bfloat16)


class Widening(TorchFunctionMode):
    """While it is on, whoever asks PyTorch for half precision gets float32."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _CASTS:
            return Tensor.float(*args, **(kwargs or {}))
        args, kwargs = pytree.tree_map(_wide, (args, kwargs or {}))
        return func(*args, **kwargs)


def _wide(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value in REDUCED else value


def is_reduced(weights: Iterable[Tensor]) -> bool:
    """Whether a model with these weights is explained as one in float32."""
    return any(weight.dtype in REDUCED for weight in weights)


def widening(reduced: bool) -> AbstractContextManager[Any]:
    """`Widening`, for a model in half precision."""
    return Widening() if reduced else nullcontext()
