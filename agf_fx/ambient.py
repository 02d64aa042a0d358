"""Shielding from the state that callers leave around: modes and defaults of PyTorch that change what a line computes.

What is captured and prepared is kept, so it must not depend on the moment; and a map is that of the model and the
image, wherever it is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

from agf_fx.errors import InputError

_DEVICES = ("cpu", "cuda", "xpu", "mps")


@contextmanager
def shielded() -> Iterator[None]:
    """No autocast, gradients, inference mode, default device, function or dispatch mode; for running a graph.

    Dispatch modes of PyTorch itself stay, such as its FlopCounterMode, and others with ``observes = True``, which only
    look on.
    """
    modes = _get_current_dispatch_mode_stack()
    altering = [mode for mode in modes if not _looks_on(mode)]
    with ExitStack() as stack:
        stack.enter_context(_without_function_modes())
        if altering:
            stack.enter_context(_disable_current_modes())
            for mode in modes:
                if mode not in altering:
                    stack.enter_context(mode)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def capturing(dtype: torch.dtype) -> Iterator[None]:
    """`shielded`, from every dispatch mode and from deterministic mode too, with ``dtype`` as the default.

    What a model creates in its forward pass without a dtype has that of its weights. The defaults are those of the
    process, so other threads see them for the time of a capture.
    """
    before = torch.get_default_dtype()
    deterministic, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with shielded(), ExitStack() as stack:
        if _get_current_dispatch_mode_stack():
            stack.enter_context(_disable_current_modes())
        torch.set_default_dtype(dtype if dtype in (torch.float32, torch.float64) else torch.float32)
        torch.use_deterministic_algorithms(False)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextmanager
def autocast_left_out() -> Iterator[list[str]]:
    """Makes ``torch.autocast`` do nothing in this thread; yields a list that fills with the dtypes asked for."""
    kind, thread, asked = torch.autocast, threading.get_ident(), []
    enter, leave = kind.__enter__, kind.__exit__

    def entered(self: torch.autocast) -> Any:
        if threading.get_ident() != thread:
            return enter(self)
        if self._enabled:
            asked.append(str(self.fast_dtype).removeprefix("torch."))
        return self

    def left(self: torch.autocast, *error: Any) -> Any:
        return leave(self, *error) if threading.get_ident() != thread else False

    kind.__enter__, kind.__exit__ = entered, left
    try:
        yield asked
    finally:
        kind.__enter__, kind.__exit__ = enter, leave


@contextmanager
def _without_function_modes() -> Iterator[None]:
    """Function modes taken off the stack, such as the one of ``torch.set_default_device``, and put back."""
    modes = _get_current_function_mode_stack()
    for _ in modes:
        torch._C._pop_torch_function_stack()
    try:
        yield
    finally:
        for mode in modes:
            torch._C._push_on_torch_function_stack(mode)


def _looks_on(mode: object) -> bool:
    return getattr(mode, "observes", False) or type(mode).__module__.startswith("torch.")


def check_concrete(images: object) -> None:
    """Check that images are numbers, and not stand-ins of ``vmap`` and its likes, nor of other layouts.

    Raises:
        InputError: what they are, and what to give.
    """
    if not isinstance(images, Tensor):
        return  # refused in other words
    functorch = torch._C._functorch
    if functorch.is_functorch_wrapped_tensor(images) or functorch.peek_interpreter_stack() is not None:
        raise InputError(
            "an explainer cannot run inside torch.func.vmap, grad, jvp and the like; call it outside: it takes batches."
        )
    if images.layout is not torch.strided or images.is_quantized:
        kind = "quantised" if images.is_quantized else str(images.layout).removeprefix("torch.")
        raise InputError(
            f"the images are {kind} tensors; give dense ones, as images.to_dense() or .dequantize() makes."
        )
