"""``len(x)`` of a tensor followed as ``x.shape[0]``: Python makes it a number, and the batch size with it."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor, fx, nn

Namespace = dict[str, Any]


def length(value: Any) -> Any:
    """What ``len`` says, for tensors as a size that may be symbolic."""
    if isinstance(value, fx.Proxy):
        return value.tracer.create_proxy("call_function", length, (value,), {})
    return value.shape[0] if isinstance(value, Tensor) and value.dim() else builtins.len(value)


def namespaces_of(model: nn.Module) -> list[Namespace]:
    """The global names of the forward functions of a model's own modules."""
    classes = {type(module) for module in model.modules()}
    forwards = [vars(kind).get("forward") for given in classes for kind in given.__mro__ if not _is_torchs(kind)]
    found = [forward.__globals__ for forward in forwards if hasattr(forward, "__globals__")]
    return list({id(namespace): namespace for namespace in found}.values())


@contextmanager
def followed(namespaces: Iterable[Namespace]) -> Iterator[None]:
    """Let ``len`` stand for `length` in functions with these global names, unless they have a ``len`` of their own."""
    with ExitStack() as stack:
        for namespace in namespaces:
            if namespace.get("len", builtins.len) is builtins.len:
                stack.enter_context(patch.dict(namespace, len=length))
        yield


def _is_torchs(kind: type) -> bool:
    return kind.__module__.split(".")[0] in ("torch", "builtins")
