"""Symbolic tracing and export, keeping for every call its module path and the user's source line."""

from __future__ import annotations

import linecache
import operator
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from agf_fx.errors import CaptureError

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parent)


def export(model: nn.Module, images: Tensor) -> ExportedProgram:
    """Export ``model`` with a symbolic batch size, functionalised, in ATen operations.

    Args:
        model: a private copy in evaluation mode.
        images: an example batch of two.

    Raises:
        CaptureError: neither symbolic tracing nor torch.export can follow the model, or it fixes its batch size.
    """
    batch = torch.export.Dim("N", min=1)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dynamic = ({0: batch},)
            program = torch.export.export(_trace(model), (images,), dynamic_shapes=dynamic, strict=False)
            return program.run_decompositions({})
    except Exception as error:
        raise CaptureError(_export_failure(model, images, error)) from error


def _export_failure(model: nn.Module, images: Tensor, error: Exception) -> str:
    name, cause = type(model).__name__, str(error).strip() or type(error).__name__
    cause = "\n".join(cause.splitlines()[:12])
    if "Constraints violated" in cause or "specialized" in cause:
        return (
            f"{name} fixes its batch size, and an explanation graph serves every batch size. Replace the fixed "
            f"number by x.shape[0] or -1. torch.export says:\n{cause}"
        )
    shape = f"(N, {', '.join(map(str, images.shape[1:]))})"
    hint = "; for a single image use image.unsqueeze(0)" if images.dim() == 3 else ""
    return (
        f"{name} could not be captured on images of shape {shape} ({type(error).__name__}). Check that it accepts "
        f"images of this shape{hint}. Control flow that depends on tensor values must be removed or moved out of "
        f"forward(). torch.export says:\n{cause}"
    )


def _trace(model: nn.Module) -> nn.Module:
    """The model traced symbolically, or as it is where symbolic tracing cannot follow it."""
    try:
        return fx.GraphModule(model, _Tracer().trace(model), type(model).__name__)
    except Exception:  # whatever user code raises on proxies; torch.export judges, and names the cause
        return model


class _Proxy(fx.Proxy):
    """Keeps ``a += b`` in place; torch.fx's own makes it ``a = a + b``, and other names of a keep the old value."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(fx.Tracer):
    """Records, on every traced node, the module path and the user's source line."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        path = next(reversed(self.module_stack), "").split("@")[0]  # "relu@1" is the second call of "relu"
        node.meta["custom"] = {"agf_fx": {"module": path, "source": _user_line()}}
        return node


def origin(node: fx.Node) -> dict[str, str]:
    """Module path and source line of an exported call, from our tracer or else as torch.export recorded them."""
    traced = (node.meta.get("custom") or {}).get("agf_fx")
    if traced:
        return traced
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if line.strip()]
    files = [i for i, line in enumerate(lines) if line.startswith("File ") and _TORCH not in line]
    source = " ".join(lines[files[-1] : files[-1] + 2]) if files else ""
    return {"module": stack[-1] if stack else "", "source": source}


def _user_line() -> str:
    """The innermost line outside torch, above our tracer and below the call of `capture`."""
    frame = sys._getframe(2)
    while frame and frame.f_code.co_filename.startswith((_TORCH, "<")):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(_OURS):
        return ""
    name, number = frame.f_code.co_filename, frame.f_lineno
    return f"{name}:{number}: {linecache.getline(name, number).strip()}"
