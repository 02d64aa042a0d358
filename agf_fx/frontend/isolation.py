"""Functions hooked into a forward pass, with copies of what they hold: tracing leaves the user's containers alone."""

from __future__ import annotations

import contextlib
import copy
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_AS_THEY_ARE = (type, types.ModuleType, types.BuiltinFunctionType, Tensor)


def hooks_of(module: nn.Module) -> list[Callable[..., Any]]:
    """The functions hooked into the forward pass of a module."""
    return [hook for name in _HOOKS for hook in getattr(module, name).values()]


def global_hooks() -> list[Callable[..., Any]]:
    """The functions hooked into the forward passes of all modules of the process."""
    shared = torch.nn.modules.module
    return [*shared._global_forward_hooks.values(), *shared._global_forward_pre_hooks.values()]


def isolate_hooks(module: nn.Module, memo: dict[int, Any]) -> None:
    """Replace the forward hooks of a copied module by functions that store in copies.

    Args:
        module: one of the copy's.
        memo: what stands for what in the copy, by identity of the original, as `copy.deepcopy` leaves it.
    """
    done = dict(memo)
    for hook in hooks_of(module):
        done.pop(id(hook), None)
    for name in _HOOKS:
        hooks = getattr(module, name)
        for key, hook in hooks.items():
            called = next((vars(kind)["__call__"] for kind in type(hook).__mro__ if "__call__" in vars(kind)), None)
            if isinstance(called, types.FunctionType) and not isinstance(hook, nn.Module):  # an object of a user's
                hooks[key] = types.MethodType(_isolated(called, done), _copy(hook, done))
            elif isinstance(hook, types.MethodType) and isinstance(hook.__func__, types.FunctionType):
                hooks[key] = types.MethodType(_isolated(hook.__func__, done), _copy(hook.__self__, done))
            else:
                hooks[key] = _copy(hook, done)


def _isolated(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    cells = tuple(_cell(cell, memo) for cell in function.__closure__ or ())
    named = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    stores = {name: _copy(value, memo) for name, value in named.items() if not isinstance(value, types.FunctionType)}
    defaults = function.__defaults__ and _copy(function.__defaults__, memo)
    twin = types.FunctionType(function.__code__, function.__globals__ | stores, function.__name__, defaults, cells)
    twin.__kwdefaults__ = function.__kwdefaults__ and {k: _copy(v, memo) for k, v in function.__kwdefaults__.items()}
    twin.__dict__.update(function.__dict__)
    twin.__module__, twin.__qualname__ = function.__module__, function.__qualname__
    return twin


def _names(code: types.CodeType) -> Iterator[str]:
    """The names that a function and those inside it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _cell(cell: types.CellType, memo: dict[int, Any]) -> types.CellType:
    if id(cell) not in memo:
        memo[id(cell)] = twin = types.CellType()
        with contextlib.suppress(ValueError):  # an empty one
            twin.cell_contents = _copy(cell.cell_contents, memo)
    return memo[id(cell)]


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of what a hook may store in, down to tensors, arrays, and what cannot be copied, which are shared."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, (*_AS_THEY_ARE, nn.Module)):
        return value
    if isinstance(value, types.FunctionType):
        return _isolated(value, memo)
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, _copy(value.__self__, memo))
    if type(value) is tuple:
        return tuple(_copy(item, memo) for item in value)
    if not isinstance(value, dict | list | set | deque) and not hasattr(value, "__dict__"):
        return value
    try:
        twin = copy.copy(value)
    except Exception:  # whatever an object raises that cannot be copied
        return value
    memo[id(value)] = twin
    if isinstance(value, dict):
        twin.update({key: _copy(item, memo) for key, item in value.items()})
    elif isinstance(value, list | deque):
        for i, item in enumerate(value):
            twin[i] = _copy(item, memo)
    if hasattr(twin, "__dict__"):
        vars(twin).update({name: _copy(item, memo) for name, item in vars(value).items()})
    return twin
