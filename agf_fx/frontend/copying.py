"""A copy of a model that can be switched and traced without touching the original."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import Tensor, nn

from agf_fx.errors import CaptureError


def structural_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose modules are new and whose tensors are the model's own."""
    shared = {}
    for module in model.modules():
        for tensor in _tensors(module):
            shared[id(tensor)] = tensor
    try:
        twin = copy.deepcopy(model, shared)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be copied for tracing ({type(error).__name__}: {error}). Remove "
            "attributes that copy.deepcopy refuses (open files, locks, generators) or give them __deepcopy__."
        ) from error
    for module in twin.modules():
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
    return twin.eval()


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from (value for value in vars(module).values() if isinstance(value, Tensor))
    yield from (value for value in (*module._parameters.values(), *module._buffers.values()) if value is not None)
