"""Values that functions hold, in closures, defaults and globals: what was captured is out of date when they change."""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import types
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

PLAIN = (bool, int, float, complex, str, bytes, type(None))
_LIBRARIES = frozenset({"torch", "torchvision", "numpy", "agf_fx", *sys.stdlib_module_names} - {"__main__"})
_OF_EVERY_MODULE = frozenset({*vars(nn.Module()), "_parameters", "_buffers", "_modules"})
_DEPTH = 3  # objects inside objects that are looked into
_ARRAY = 2**16  # elements of a NumPy array up to which it is compared


def functions_of(model: nn.Module, output: Any) -> tuple[types.FunctionType, ...]:
    """The functions of a user's that take part in a forward pass: methods, functions in attributes, what these name.

    Args:
        model: the model.
        output: the choice of its logits.
    """
    found: dict[int, types.FunctionType] = {}
    pending = list(_functions(output))
    for module in model.modules():
        own = [kind for kind in type(module).__mro__ if not known(kind.__module__)]
        pending += [function for kind in own for member in vars(kind).values() for function in _functions(member)]
        pending += [function for leaf in pytree.tree_leaves(vars(module)) for function in _functions(leaf)]
    while pending:
        function = pending.pop()
        if id(function) not in found and not known(function.__module__ or ""):
            found[id(function)] = function
            pending += [other for _, value in _references(function) for other in _functions(value)]
    return tuple(found.values())


def held(
    functions: tuple[types.FunctionType, ...], model: nn.Module, choice: Any = None
) -> tuple[list[Tensor], list[Any]]:
    """The tensors, and the plain values, that functions hold now, and attributes of modules that are no plain values.

    Parameters and buffers of the model itself are no such values.

    Args:
        functions: from `functions_of`.
        model: the model.
        choice: what its logits are chosen by; an object or a ``partial`` may hold values, too.
    """
    own = {id(module) for module in model.modules()}
    leaves = [
        leaf
        for function in functions
        for name, value in _references(function)
        for leaf in _leaves(value, function.__code__.co_names, own)
    ]
    classes = {type(module): None for module in model.modules()}
    of_classes = (_of_class(kind).values() for kind in classes if not known(kind.__module__))
    for value in (choice, *_attributes(model), *itertools.chain.from_iterable(of_classes)):
        leaves += _leaves(value, (), own)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)], [leaf for leaf in leaves if isinstance(leaf, PLAIN)]


def _attributes(model: nn.Module) -> Iterator[Any]:
    """Containers, objects and functions in attributes of modules."""
    for module in model.modules():
        for name, value in vars(module).items():
            if name in _OF_EVERY_MODULE or type(value) in PLAIN or isinstance(value, (Tensor, nn.Module, *PLAIN)):
                continue
            if not (type(value) is tuple and all(type(item) in PLAIN for item in value)):
                yield value


def known(home: str) -> bool:
    """Whether a module belongs to a library whose functions hold nothing of a user's."""
    return home.partition(".")[0] in _LIBRARIES


def _functions(value: Any) -> Iterator[types.FunctionType]:
    if isinstance(value, types.FunctionType):
        yield value
    elif isinstance(value, types.MethodType | staticmethod | classmethod):
        yield from _functions(value.__func__)
    elif isinstance(value, functools.partial):
        yield from _functions(value.func)
    elif isinstance(value, property):
        yield from _functions(value.fget)
    elif callable(value) and not isinstance(value, nn.Module | type) and hasattr(value, "__dict__"):
        yield from _functions(vars(type(value)).get("__call__"))


def _references(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function can read: closed-over values, globals that its code names, defaults."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # empty as yet
            continue
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    yield from enumerate(function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()


@functools.cache
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The names that code looks up, functions inside it included."""
    inside = [name for constant in code.co_consts if isinstance(constant, types.CodeType) for name in _names(constant)]
    return tuple(dict.fromkeys((*code.co_names, *inside)))


def _leaves(value: Any, names: tuple[str, ...], own: set[int], depth: int = 0) -> Iterator[Any]:
    """Tensors and plain values in containers, in attributes of objects and of Python modules, and in hidden modules."""
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, (Tensor, *PLAIN)):
            yield leaf
        elif isinstance(leaf, nn.Module):
            if id(leaf) not in own:
                yield from leaf.buffers()  # the copy that is traced has its own
                yield from leaf.parameters()
            elif depth == 0:
                yield from leaf.buffers()
        elif isinstance(leaf, types.ModuleType):
            if not known(leaf.__name__):
                for name in names:
                    if depth == 0 and name in vars(leaf):
                        yield from _leaves(vars(leaf)[name], names, own, 1)
        elif type(leaf).__module__ == "numpy" and type(leaf).__name__ == "ndarray":
            if leaf.size <= _ARRAY and not leaf.dtype.hasobject:
                yield f"{leaf.shape} {leaf.dtype} {zlib.crc32(leaf.tobytes())}"
        elif depth < _DEPTH:
            yield from _inside(leaf, names, own, depth + 1)


def _inside(value: Any, names: tuple[str, ...], own: set[int], depth: int) -> Iterator[Any]:
    """What ``partial``, bound methods and objects of a user's hold; functions by who they are."""
    if isinstance(value, functools.partial):
        yield from _leaves([value.func, value.args, dict(value.keywords)], names, own, depth)
    elif isinstance(value, types.MethodType):
        yield from _leaves([value.__func__, value.__self__], names, own, depth)
    elif isinstance(value, types.FunctionType | types.BuiltinFunctionType | torch._ops.OpOverload):
        yield id(value)
    elif isinstance(value, type):
        if not known(value.__module__):
            yield from _leaves(list(_of_class(value).values()), names, own, depth)
    elif _is_users_object(value):
        yield from _leaves(list({**_of_class(type(value)), **vars(value)}.values()), names, own, depth)


def _of_class(kind: type) -> dict[str, Any]:
    """Tensors and plain values that a class of a user's holds."""
    homes = [base for base in reversed(kind.__mro__) if not known(base.__module__)]
    members = {name: value for home in homes for name, value in vars(home).items() if not name.startswith("__")}
    return {name: value for name, value in members.items() if isinstance(value, (Tensor, *PLAIN))}


def _is_users_object(value: Any) -> bool:
    if not hasattr(value, "__dict__"):
        return False
    if isinstance(value, types.SimpleNamespace | argparse.Namespace):
        return True
    return not known(getattr(value, "__module__", None) or type(value).__module__)
