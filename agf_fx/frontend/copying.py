"""A copy of a model that can be switched and traced without touching the original."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from agf_fx.errors import CaptureError
from agf_fx.frontend.wrappers import Shell, inside

REDUCED = (torch.float16, torch.bfloat16)


def structural_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose modules are new and whose tensors are the model's own.

    Tensors in half precision are copied to float32, in which such a model is explained.
    """
    shared = {}
    for module in model.modules():
        for tensor in _tensors(module):
            shared[id(tensor)] = widened(tensor)
    try:
        twin = copy.deepcopy(model, shared)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be copied for tracing ({type(error).__name__}: {error}). Remove "
            "attributes that copy.deepcopy refuses (open files, locks, generators) or give them __deepcopy__."
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
    if tensor.dtype not in REDUCED:
        return tensor
    wide = tensor.detach().float()
    return nn.Parameter(wide, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else wide


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and what else the module's attributes hold, such as a cache of values."""
    yield from (value for value in pytree.tree_leaves(vars(module)) if isinstance(value, Tensor))
