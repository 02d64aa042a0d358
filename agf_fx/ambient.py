"""Shielding from the state that callers leave around: modes and defaults of PyTorch that change what a line computes.

What is captured and prepared is kept, so it must not depend on the moment; and a map is that of the model and the
image, wherever it is asked for. TF32 is off as well, unless the explainer was asked for it: PyTorch has it on for
cuDNN's convolutions from the start, and divisions of relevances make much of its ten bits. What a user has chosen for
speed or reproducibility, and what changes rounding at most, stays while graphs run: deterministic algorithms, the
number of threads, flushing of denormal numbers.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _len_torch_dispatch_stack, _pop_mode, _push_mode

from agf_fx.errors import InputError

_DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla")
_LOOKING_ON = ("_FlopCounterMode",)  # of PyTorch's own


@contextmanager
def shielded() -> Iterator[None]:
    """No autocast, gradients, inference mode, default dtype or device, function or dispatch mode; for running a graph.

    So results made under inference mode are ordinary tensors. PyTorch's FlopCounterMode stays, and dispatch modes with
    ``observes = True``, which only look on.
    """
    with ExitStack() as stack:
        stack.enter_context(_without_function_modes())
        stack.enter_context(_without_dispatch_modes())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_set_fwd_grad_enabled(False))
        for device in _DEVICES:
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_DEFAULT_DTYPE)
        yield


@contextmanager
def capturing() -> Iterator[None]:
    """`shielded`, `without_tf32`, and from deterministic mode, which decomposes operations; the random numbers stay.

    Gradients are on, as where a model is called. What a model creates in its forward pass without a dtype has the dtype
    with which PyTorch starts, float32.
    """
    with shielded(), without_tf32(), torch.enable_grad(), _DETERMINISTIC, _random_numbers_kept():
        yield


@contextmanager
def without_tf32(off: bool = True) -> Iterator[None]:
    """float32 products of a CUDA device in all of their 24 bits; for the whole process, as PyTorch knows no other way.

    Args:
        off: False leaves PyTorch's settings as they are.
    """
    with _TF32 if off else nullcontext():
        yield


def random_states() -> dict[str, Any]:
    """The states of the generators that a model may draw from, by whose they are."""
    states: dict[str, Any] = {"torch": torch.get_rng_state().numpy().tobytes(), "random": random.getstate()}
    if "numpy" in sys.modules:
        states["numpy.random"] = repr(sys.modules["numpy"].random.get_state())
    if torch.cuda.is_initialized():
        states["torch.cuda"] = [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    return states


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
    if images.is_nested:
        raise InputError("the images are a nested tensor; give one batch of images of one size (torch.stack).")
    if images.layout is not torch.strided or images.is_quantized:
        kind = "quantised" if images.is_quantized else str(images.layout).removeprefix("torch.")
        raise InputError(
            f"the images are {kind} tensors; give dense ones, as images.to_dense() or .dequantize() makes."
        )
    if images.is_meta or type(images).__name__ in ("FakeTensor", "FunctionalTensor"):
        raise InputError(f"the images are a {type(images).__name__} without numbers ({images.device}); give real ones.")


class _Setting:
    """A setting of the whole process, neutral while any thread is inside.

    Args:
        get, put: read and write it.
        neutral: a value for `put`.
    """

    def __init__(self, get: Callable[[], Any], put: Callable[[Any], None], neutral: Any) -> None:
        self._get, self._put, self._neutral = get, put, neutral
        self._lock, self._inside, self._before = threading.Lock(), 0, neutral

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = self._get()
                if self._before != self._neutral:
                    self._put(self._neutral)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._before != self._neutral:
                self._put(self._before)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _tf32() -> tuple[str | bool, ...]:
    """PyTorch's older settings; and its newer ones too where somebody has used those, and the older refuse to be read.

    The older settings are still there then, and are checked against the newer ones whenever PyTorch reads them: they
    are read while the newer ones allow TF32 everywhere.
    """
    older = torch.backends.cudnn, torch.backends.cuda.matmul
    try:
        return tuple(setting.allow_tf32 for setting in older)
    except RuntimeError:
        newer = tuple(place.fp32_precision for place in _fp32_places())
    for place in _fp32_places():
        place.fp32_precision = "tf32"
    found = tuple(map(_allows_tf32, older))
    for place, precision in zip(_fp32_places(), newer, strict=True):
        place.fp32_precision = precision
    return found + newer


def _allows_tf32(setting: Any) -> bool:
    """Whether an older setting allows TF32, while the newer ones do."""
    try:
        return setting.allow_tf32
    except RuntimeError:  # as it does not
        return False


def _set_tf32(value: tuple[str | bool, ...]) -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, *newer = value
    for place, precision in zip(_fp32_places(), newer, strict=False):  # none, or one for each
        place.fp32_precision = precision


def _fp32_places() -> tuple[Any, ...]:
    return torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul


_TF32 = _Setting(_tf32, _set_tf32, (False, False))
_DEFAULT_DTYPE = _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32)
_DETERMINISTIC = _Setting(_deterministic, _set_deterministic, (False, False))


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    numpy = sys.modules.get("numpy")
    before = random.getstate(), numpy and numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(before[0])
        if numpy:
            numpy.random.set_state(before[1])


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


@contextmanager
def _without_dispatch_modes() -> Iterator[None]:
    """This thread's only: the others that PyTorch keeps belong to whatever thread is tracing."""
    modes = [_pop_mode() for _ in range(_len_torch_dispatch_stack())]
    observing = [mode for mode in reversed(modes) if _looks_on(mode)]
    for mode in observing:
        _push_mode(mode)
    try:
        yield
    finally:
        for _ in observing:
            _pop_mode()
        for mode in reversed(modes):
            _push_mode(mode)


def _looks_on(mode: object) -> bool:
    return getattr(mode, "observes", False) or type(mode).__name__ in _LOOKING_ON
