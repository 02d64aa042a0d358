"""A digest of all that a captured graph depends on, taken from the traced model in a fraction of a capture's time."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from agf_fx.frontend.isolation import global_hooks

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))
_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size)
_KNOWN_LIBRARIES = (
    "torch",
    "torchvision",
    "math",
    "_operator",
    "operator",
    "builtins",
    "agf_fx",
)  # their versions are known
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_STATE = (
    *("_parameters", "_buffers", "_modules", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
    *("_non_persistent_buffers_set", "_is_full_backward_hook", "_forward_hooks_with_kwargs"),
    *("_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs", *_HOOKS),
)


class _Unsure(Exception):
    """Something in the traced model may change its meaning without a trace."""


def trace_digest(traced: fx.GraphModule, model: nn.Module, baked: Iterable[Tensor], images: Tensor) -> str | None:
    """What identifies the traced model: equal digests give equal captured graphs, with the same versions of libraries.

    Counted in are the traced calls, the settings of PyTorch's own modules, names, shapes, dtypes, strides and sharing
    of all tensors, values of those that the graph may contain, and the images' shape, dtype and kind of device. Values
    of weights are not.

    Args:
        traced: from `agf_fx.frontend.tracing.trace`.
        model: the copy of the model that was traced.
        baked: the tensors whose values the graph may contain.
        images: an example.

    Returns:
        A hexadecimal digest; None where the trace does not tell all, as with functions of unknown libraries that were
        not traced through, hooks on PyTorch's modules, or tensors of unusual types.
    """
    digest = hashlib.sha256()
    try:
        for line in _lines(traced, model, baked, images):
            digest.update(line.encode())
            digest.update(b"\n")
    except _Unsure:
        return None
    return digest.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """A digest of the shape, dtype and values of a tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    head = f"{tuple(tensor.shape)} {tensor.dtype} ".encode()
    return hashlib.sha256(head + flat.numpy().tobytes()).hexdigest()


def _lines(traced: fx.GraphModule, model: nn.Module, baked: Iterable[Tensor], images: Tensor) -> Iterator[str]:
    if global_hooks():
        raise _Unsure  # what they do at PyTorch's own modules is not in the trace
    yield f"{type(model).__name__} {tuple(images.shape[1:])} {images.dtype} {images.device.type}"
    positions: dict[fx.Node, int] = {}
    for node in traced.graph.nodes:
        call = f"{node.op} {_target(traced, node)} {_value((node.args, node.kwargs), positions)}"
        yield f"{call} {_place(node)} {_gradient(node)}"
        positions[node] = len(positions)
    yield from _tensor_lines(model)
    yield from map(tensor_digest, baked)


def _target(traced: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{node.target} {_module(traced.get_submodule(node.target))}"
    if node.op == "call_function":
        return _function(node.target)
    if node.op == "get_attr":
        value = operator.attrgetter(node.target)(traced)
        created = isinstance(value, Tensor) and node.target.startswith("_tensor_constant")
        return f"{node.target} {tensor_digest(value) if created else type(value).__name__}"
    return str(node.target)


def _place(node: fx.Node) -> str:
    return (node.meta.get("custom") or {}).get("agf_fx", {}).get("module", "")


def _gradient(node: fx.Node) -> str:
    """Whether the gradient is stopped; an ``autograd.Function`` may have any backward, which a trace does not tell."""
    if node.meta.get("gradient") == "custom":
        raise _Unsure
    return node.meta.get("gradient", "")


def _function(function: Any) -> str:
    """A function by name, if it belongs to a library whose version is known."""
    home = getattr(function, "__module__", None) or getattr(getattr(function, "__objclass__", None), "__module__", "")
    if isinstance(function, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return str(function)
    if (home or "torch").partition(".")[0] not in _KNOWN_LIBRARIES or not callable(function):
        raise _Unsure
    return f"{home}.{getattr(function, '__qualname__', function)}"


def _module(module: nn.Module) -> str:
    """PyTorch's own modules, whatever is inside, by class and settings."""
    parts = []
    for path, part in module.named_modules():
        kind = type(part)
        own = not kind.__module__.startswith("torch.") or not kind.forward.__module__.startswith("torch.")
        if own or any(getattr(part, hooks, None) for hooks in _HOOKS):
            raise _Unsure
        settings = {name: value for name, value in vars(part).items() if name not in _STATE}
        parts.append(f"{path}:{kind.__module__}.{kind.__qualname__} {_value(settings, {})}")
    return "; ".join(parts)


def _value(value: Any, positions: dict[fx.Node, int]) -> str:
    leaves, structure = pytree.tree_flatten(value)
    return f"{structure} {[_leaf(leaf, positions) for leaf in leaves]}"


def _leaf(leaf: Any, positions: dict[fx.Node, int]) -> str:
    if isinstance(leaf, fx.Node):
        return f"%{positions[leaf]}"
    if isinstance(leaf, _PLAIN + _TORCH):
        return repr(leaf)
    if isinstance(leaf, slice):
        return f"slice{[_leaf(part, positions) for part in (leaf.start, leaf.stop, leaf.step)]}"
    return _function(leaf)


def _tensor_lines(model: nn.Module) -> Iterator[str]:
    """All parameters and buffers: their form, and which are one tensor, or lie in one memory."""
    seen: dict[int, int] = {}
    memory: dict[int, int] = {}
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    for name, tensor in named:
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.layout is not torch.strided:
            raise _Unsure
        same = seen.setdefault(id(tensor), len(seen))
        shared = memory.setdefault(tensor.untyped_storage().data_ptr(), len(memory))
        form = f"{tuple(tensor.shape)} {tensor.stride()} {tensor.storage_offset()} {tensor.dtype} {tensor.device.type}"
        yield f"{name} {same} {shared} {form} {type(tensor).__name__}"
