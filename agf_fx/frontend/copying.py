"""A copy of a model that can be switched and traced without touching the original."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from agf_fx.errors import CaptureError
from agf_fx.frontend.isolation import hooks_of, isolate_hooks
from agf_fx.frontend.widening import REDUCED
from agf_fx.frontend.wrappers import Shell, inside

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def structural_copy(model: nn.Module, *, own_tensors: bool = False, widen: bool = True) -> nn.Module:
    """A copy in evaluation mode whose modules are new and whose parameters are the model's own.

    Buffers and other tensors are copied, as a traced forward may write to them. Tensors in half precision are copied to
    float32, in which such a model is explained. What modules hold besides is copied where it can be, and else shared:
    locks, open files, iterators. Functions hooked into the forward pass get copies of what they hold, so that what they
    store while the copy is traced stays away from the user's.

    Args:
        model: the model.
        own_tensors: copy parameters too, so that the copy can be run and its forward may write where it likes.
        widen: False leaves half precision as it is; with ``own_tensors`` only.
    """
    shared: dict[int, Any] = {}
    for module in model.modules():
        for tensor in _tensors(module):
            # Tensors made under inference mode cannot be traced.
            own = own_tensors or tensor.is_inference() or not isinstance(tensor, nn.Parameter)
            shared[id(tensor)] = _cloned(tensor, widen) if own else widened(tensor)
    try:
        twin = _copied(model, shared)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be copied for tracing ({type(error).__name__}: {error}). Remove what "
            "copy.deepcopy refuses, or give it __deepcopy__."
        ) from error
    for module in list(twin.modules()):
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        for name, child in module._modules.items():
            if child is not None and inside(child):
                module._modules[name] = Shell(inside(child), getattr(child, inside(child)))
    return twin.eval()


def widened(tensor: Tensor) -> Tensor:
    """``tensor``, or a copy in float32 if it is in half precision."""
    return _like(tensor, tensor.detach().float()) if tensor.dtype in REDUCED else tensor


def _cloned(tensor: Tensor, widen: bool) -> Tensor:
    """A copy, in float32 if ``tensor`` is in half precision and to be widened."""
    wide = widen and tensor.dtype in REDUCED
    return _like(tensor, tensor.detach().to(torch.float32 if wide else tensor.dtype, copy=True))


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    return nn.Parameter(values, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values


def _copied(model: nn.Module, shared: dict[int, Any]) -> nn.Module:
    """A deep copy that has the values of ``shared``, by identity of the originals, and shares what cannot be copied."""
    shared = shared | {id(hook): hook for module in model.modules() for hook in hooks_of(module)}
    memo = dict(shared)
    try:
        twin = copy.deepcopy(model, memo)
    except Exception:  # whatever an attribute raises that cannot be copied
        memo = shared | {id(value): value for value in _uncopyable(model, shared)}
        twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        isolate_hooks(module, memo)
    return twin


def _uncopyable(model: nn.Module, shared: dict[int, Any]) -> Iterator[Any]:
    """What modules hold, in attributes or containers, and copy.deepcopy refuses."""
    modules = {id(module): module for module in model.modules()}
    for module in model.modules():
        own = [value for name, value in vars(module).items() if name not in _REGISTRIES]
        for value in pytree.tree_leaves(own):
            if isinstance(value, _PLAIN) or id(value) in shared or id(value) in modules:
                continue
            try:
                copy.deepcopy(value, shared | modules)
            except Exception:
                yield value


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and what else the module's attributes hold, such as a cache of values."""
    yield from (value for value in pytree.tree_leaves(vars(module)) if isinstance(value, Tensor))
