"""TorchScript: for ``torch.jit.load`` in Python, and libtorch in C++."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from agf_fx.runtime.exports.metadata import MEMBER
from agf_fx.runtime.exports.standalone import Standalone

FORMAT = "torchscript"


def write(explainer: Standalone, metadata: str, path: str | os.PathLike[str]) -> None:
    """Write a TorchScript archive.

    Args:
        explainer: what to write; its graph is changed.
        metadata: JSON, stored as a file of the archive.
        path: the file to write.

    Raises:
        OSError: it cannot be written.
    """
    with _deprecation_silenced(), open(path, "wb") as file:
        torch.jit.save(to_torchscript(explainer.module), file, _extra_files={MEMBER: metadata})


def to_torchscript(module: fx.GraphModule) -> torch.jit.ScriptModule:
    """Script a module of ATen overloads; TorchScript knows operations by packet and picks the overload itself."""
    for node in module.graph.nodes:
        if node.op == "call_function":
            node.target = _packet(node.target)
    module.recompile()
    with _deprecation_silenced():
        return torch.jit.script(module)


def _packet(target: Callable[..., Any]) -> Callable[..., Any]:
    if target is torch.ops.aten.sym_size.int:
        return torch.ops.aten.size
    return target.overloadpacket if isinstance(target, torch._ops.OpOverload) else target


class _deprecation_silenced(warnings.catch_warnings):
    """TorchScript is deprecated upstream and says so at every use; nothing else is silenced."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..*deprecated.*")
        warnings.filterwarnings("ignore", message=r".*TorchScript type system doesn't support instance-level.*")
