"""Hooks on gradients, which a forward pass registers and which change nothing of what it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode


class Handle:
    """Stands for the handle of a hook that was not registered."""

    def remove(self) -> None:
        """Nothing is there to remove."""


class GradientHooksIgnored(TorchFunctionMode):
    """Lets ``register_hook`` and ``retain_grad`` do nothing, in this thread; without gradients they would raise."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The call, unless it is about hooks."""
        if func in (torch.Tensor.register_hook, torch.Tensor.register_post_accumulate_grad_hook):
            return Handle()
        if func is torch.Tensor.retain_grad:
            return None
        return func(*args, **(kwargs or {}))


class UnhookedProxy(fx.Proxy):
    """The same while a model is traced."""

    def register_hook(self, hook: Callable[..., Any]) -> Handle:
        """See `GradientHooksIgnored`."""
        return Handle()

    def retain_grad(self) -> None:
        """See `GradientHooksIgnored`."""
