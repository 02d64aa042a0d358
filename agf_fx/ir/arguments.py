"""Arguments of a call, checked against the schema of its operation."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

LARGEST = 2**63 - 1
_WORDS = {"none", "tanh", "floor", "trunc"}  # approximations of gelu, ways of rounding
_DEVICES = {"cpu", "cuda", "mps", "xpu"}

Check = Callable[[Any], bool]


def fit(target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether ``target`` takes these arguments: their number, names and kinds, and the size of integers.

    Args:
        target: an operator overload, or ``operator.getitem``.
        args: positional arguments, nodes in the place of tensors and of sizes.
        kwargs: keyword arguments.
    """
    if target is operator.getitem:
        item = len(args) == 2 and isinstance(args[0], fx.Node) and _integer(args[1])
        return item and not isinstance(args[1], fx.Node) and 0 <= args[1] < 1024 and not kwargs
    positional, named, required = _parameters(target)
    if len(args) > len(positional) or not kwargs.keys() <= named.keys():
        return False
    given = [name for name, _ in positional[: len(args)]]
    return (
        kwargs.keys().isdisjoint(given)
        and required <= {*given, *kwargs}
        and all(check(value) for (_, check), value in zip(positional, args, strict=False))
        and all(named[name](value) for name, value in kwargs.items())
    )


@functools.cache
def _parameters(target: torch._ops.OpOverload) -> tuple[list[tuple[str, Check]], dict[str, Check], set[str]]:
    """What an operation takes by position, by name, and what it must be given."""
    arguments = target._schema.arguments
    checks = {argument.name: _check(str(argument.real_type)) for argument in arguments}
    positional = [(argument.name, checks[argument.name]) for argument in arguments if not argument.kwarg_only]
    return positional, checks, {argument.name for argument in arguments if not argument.has_default_value()}


@functools.cache
def _check(kind: str) -> Check:
    """The check for a type as schemas write it; what is not known is never right."""
    if kind.startswith("Optional["):
        inner = _check(kind[len("Optional[") : -1])
        return lambda value: value is None or inner(value)
    if kind.startswith("List["):
        tensors = kind in ("List[Tensor]", "List[Optional[Tensor]]")
        inner = _element if tensors else _check(kind[len("List[") : -1])
        return lambda value: all(map(inner, value)) if isinstance(value, list | tuple) else not tensors and inner(value)
    return _PLAIN.get(kind, lambda value: False)


def _element(value: Any) -> bool:
    return value is None or isinstance(value, fx.Node)


def _integer(value: Any) -> bool:
    return isinstance(value, fx.Node) or (type(value) is int and -LARGEST <= value <= LARGEST)


def _number(value: Any) -> bool:
    return isinstance(value, float | bool) or _integer(value)


_PLAIN: dict[str, Check] = {
    "Tensor": lambda value: _number(value) and not isinstance(value, bool),  # PyTorch takes a number for a tensor
    "int": _integer,
    "float": _number,
    "number": _number,
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str) and value in _WORDS,
    "ScalarType": lambda value: isinstance(value, torch.dtype),
    "MemoryFormat": lambda value: isinstance(value, torch.memory_format),
    "Layout": lambda value: value is torch.strided,
    "Device": lambda value: isinstance(value, torch.device) and value.type in _DEVICES,
}
