"""Symbolic tracing and export, keeping for every call its module path and the user's source line."""

from __future__ import annotations

import contextlib
import functools
import linecache
import logging
import operator
import re
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from agf_fx.errors import CaptureError
from agf_fx.frontend.distances import Distances
from agf_fx.frontend.functional import functional
from agf_fx.frontend.gradient_hooks import GradientHooksIgnored, UnhookedProxy
from agf_fx.frontend.lengths import Namespace, followed, namespaces_of
from agf_fx.frontend.outputs import Root, own_path
from agf_fx.ir.types import MOST_IMAGES

# Operations that PyTorch itself writes as others, which then need no rewrite of their own.
aten = torch.ops.aten
_CONVENIENCES = (
    *(aten.einsum.default, aten.pad.default, aten.t.default, aten.frac.default, aten.diff.default),
    aten.affine_grid_generator.default,
    *(aten.inner.default, aten.tensordot.default, aten.kron.default, aten.outer.default, aten.ger.default),
    *(aten.dot.default, aten.chain_matmul.default, aten.linalg_multi_dot.default, aten.linalg_matmul.default),
    aten.linalg_vecdot.default,
    *(aten.var_mean.default, aten.var_mean.dim, aten.std_mean.default, aten.std_mean.dim, aten.std_mean.correction),
    *(aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input),
    *(aten.arcsin.default, aten.arccos.default, aten.arctan.default, aten.arctan2.default, aten.arcsinh.default),
    *(aten.arccosh.default, aten.arctanh.default, aten.fix.default, aten.sgn.default, aten.special_round.default),
    *(aten.special_exp2.default, aten.special_expm1.default, aten.special_log1p.default, aten.special_logit.default),
    *(aten.special_erf.default, aten.special_erfc.default, aten.special_erfinv.default, aten.special_sinc.default),
    *(aten.special_xlogy.default, aten.special_xlogy.other_scalar, aten.special_xlogy.self_scalar),
    *(aten.float_power.Tensor_Tensor, aten.float_power.Tensor_Scalar, aten.float_power.Scalar, aten.clip.Tensor),
    *(aten.deg2rad.default, aten.rad2deg.default, aten.special_logsumexp.default),
    *(aten.lstm_cell.default, aten.gru_cell.default, aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default),
)


def _rounded_quotient(a: Tensor, b: Tensor | float, *, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode == "floor":
        return aten.floor_divide.default(a, b)
    quotient = aten.div.Tensor(a, b)
    return aten.trunc.default(quotient) if rounding_mode == "trunc" else quotient


# A quotient is a step function if it is rounded: what it is has to be told by the operation, not by an argument.
_ROUNDED = dict.fromkeys((aten.div.Tensor_mode, aten.div.Scalar_mode), _rounded_quotient)

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parent)
_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"  # what torch.export writes where it knows none
_NOT_THE_USERS = (_TORCH, _OURS, "<")

_ALONG = ("unbind", "chunk", "split", "tensor_split", "cat", "concat")
"""Operations that join or split the batch, where their dimension is 0."""

_DATA_DEPENDENT = (GuardOnDataDependentSymNode, DataDependentOutputException)


def export(root: Root, traced: fx.GraphModule | None, images: Tensor) -> ExportedProgram:
    """Export a model with a symbolic batch size, functionalised, in ATen operations.

    Args:
        root: a private copy of the model in evaluation mode, and the choice of its logits.
        traced: from `trace`.
        images: an example batch of two.

    Raises:
        CaptureError: neither symbolic tracing nor torch.export can follow the model, or it fixes its batch size, or
            its logits cannot be told.
    """
    try:
        if traced is not None:
            with contextlib.suppress(Exception):  # the model itself may pass; if not, its error names the user's line
                return _exported(traced, images)
        root.failure = None
        with followed(root.measured), GradientHooksIgnored():
            return _exported(root, images)
    except Exception as error:
        line = _failing_line(error) or _through_the_batch(root, traced)
        refusal = root.failure or _said(error) or CaptureError(_export_failure(root.model, images, error, line))
        raise refusal from error


def _said(error: BaseException | None) -> CaptureError | None:
    """A refusal of our own that PyTorch has wrapped."""
    while error is not None:
        if isinstance(error, CaptureError):
            return error
        error = error.__cause__ or error.__context__
    return None


_failing = ContextVar("_failing", default=False)


class _SaidOnce(logging.Filter):
    """Of an operation that fails while a model is exported, PyTorch logs the traceback of what it raises."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _failing.get()


_SAID_ONCE = _SaidOnce()


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    logging.getLogger("torch._subclasses.fake_tensor").addFilter(_SAID_ONCE)
    token = _failing.set(True)
    try:
        yield
    finally:
        _failing.reset(token)


def _exported(module: nn.Module, images: Tensor) -> ExportedProgram:
    dynamic = ({0: torch.export.Dim("N", min=1, max=MOST_IMAGES)},)
    with torch.no_grad(), warnings.catch_warnings(), _said_once(), Distances():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (images,), dynamic_shapes=dynamic, strict=False)
        decompositions = _decompositions()
        return program if functional(program, decompositions) else program.run_decompositions({**decompositions})


@functools.cache
def _decompositions() -> dict[Callable[..., Any], Callable[..., Any]]:
    standard = torch.export.default_decompositions()
    return {op: standard[op] for op in _CONVENIENCES} | _ROUNDED


def _through_the_batch(root: Root, traced: fx.GraphModule | None) -> str:
    """A line of the user's code that goes through a batch image by image, or joins or splits it; empty if none does."""
    nodes = [] if traced is None else traced.graph.nodes
    along = [node for node in nodes if getattr(node.target, "__name__", node.target) in _ALONG and _dim(node) == 0]
    return "; ".join(dict.fromkeys([*root.unrolled, *(node.meta["custom"]["agf_fx"]["source"] for node in along)]))


def _dim(node: fx.Node) -> object:
    position = 1 if node.target == "unbind" or getattr(node.target, "__name__", "") in ("unbind", "cat") else 2
    return node.kwargs.get("dim", node.args[position] if len(node.args) > position else 0)


def _export_failure(model: nn.Module, images: Tensor, error: Exception, line: str) -> str:
    name, cause = type(model).__name__, str(error).strip() or type(error).__name__
    cause = "\n".join(cause.splitlines()[:12])
    if isinstance(model, fx.GraphModule) and re.search(r"\.size\(\)\[0\] == \d|specialized it to be a constant", cause):
        return (
            f"{name} was exported for one batch size, and an explanation graph serves every batch size. Export it with "
            "dynamic_shapes=({0: torch.export.Dim('N')},), or give the model that was exported. torch.export says:\n"
            f"{cause}"
        )
    where = f" at {line}" if line else ""
    if "Constraints violated" in cause or "specialized" in cause:
        return (
            f"{name} works with one batch size only{where}, and an explanation graph serves every batch size. Replace "
            "a fixed number by x.shape[0] or -1; do not go through a batch image by image (for image in x, unbind(0)), "
            f"and do not join or split along it (cat, chunk). torch.export says:\n{cause}"
        )
    if isinstance(error, _DATA_DEPENDENT) or "data-dependent" in cause:
        return (
            f"{name} decides by the values of a tensor{where}. Control flow that depends on tensor values must be "
            "removed or moved out of forward(): compute both cases and combine them, as with torch.where, or decide "
            f"before the model is called. torch.export says:\n{cause}"
        )
    if isinstance(error, TypeError) and "takes 1 positional argument but 2 were given" in cause:
        return (
            f"{name}.forward takes its images by keyword only ({cause.splitlines()[0]}). Wrap the model in a module "
            "whose forward takes the images and hands them on by name."
        )
    if isinstance(error, TypeError) and "positional argument" in cause and "forward()" in cause:
        return (
            f"{name}.forward takes more than images ({cause.splitlines()[0]}). Wrap the model in a module whose "
            "forward takes the images and hands on what else it needs."
        )
    if "quantize" in cause:
        return (
            f"{name} quantises what it computes{where}, which has no derivative but 0; give the model as it is before "
            f"that, in floating point. torch.export says:\n{cause}"
        )
    if not _about_shapes(error, cause):
        return f"{name} could not be captured ({type(error).__name__}{where}). torch.export says:\n{cause}"
    shape = f"(N, {', '.join(map(str, images.shape[1:]))})"
    hint = "; for a single image use image.unsqueeze(0)" if images.dim() == 3 else ""
    return (
        f"{name} could not be captured on images of shape {shape} ({type(error).__name__}{where}). Check that it "
        f"accepts images of this shape{hint}. torch.export says:\n{cause}"
    )


def _about_shapes(error: BaseException, cause: str) -> bool:
    """Whether an error may come from images of a shape that the model cannot take."""
    words = ("shape", "size", "dim", "channels", "expected", "must match", "out of range", "too small")
    kinds = (RuntimeError, ValueError, IndexError, AssertionError)
    if "too many indices" in cause or "only integers, slices" in cause:  # a dictionary, or a sequence, was expected
        return False
    return isinstance(error, kinds) and any(word in cause.lower() for word in words)


def _failing_line(error: BaseException | None) -> str:
    """The innermost line of the user's code that an error passed through, or an empty string."""
    while error is not None:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_NOT_THE_USERS)]
        if frames:
            return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"
        error = error.__cause__ or error.__context__
    return ""


def trace(root: Root) -> tuple[fx.GraphModule | None, bool]:
    """The model traced symbolically, None where symbolic tracing cannot follow it; and whether it has read its buffers.

    Buffers are traced like parameters, so that nothing computed from them becomes a constant of the graph. A model that
    decides by their values is traced with the values that they have.
    """
    root.measured = namespaces_of(root.model)
    for kind in (_Tracer, _BufferReader):
        while True:
            tracer, known = kind(), len(root.measured)
            try:
                with followed(root.measured):
                    traced = fx.GraphModule(root, tracer.trace(root), type(root.model).__name__)
            except Exception:  # whatever user code raises on proxies; torch.export judges, and names the cause
                root.unrolled = tracer.unrolled
                root.measured += [names for names in tracer.measured if all(names is not old for old in root.measured)]
                if len(root.measured) > known:
                    continue
                break
            return traced, not tracer.proxy_buffer_attributes
    return None, False


class _Proxy(UnhookedProxy):
    """Keeps ``a += b`` in place; torch.fx's own makes it ``a = a + b``, and other names of a keep the old value."""

    @property
    def data(self) -> fx.Proxy:
        """An older spelling of ``detach``, which torch.export cannot follow."""
        return self.detach()

    def __len__(self) -> int:
        self.tracer.measured.append(sys._getframe(1).f_globals)  # see `agf_fx.frontend.lengths`
        return super().__len__()

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

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self._custom = _custom_forwards()
        self.measured: list[Namespace] = []
        self.unrolled: list[str] = []

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """Remember where a tensor was gone through entry by entry, which cannot be traced."""
        self.unrolled.append(user_line())
        return super().iter(obj)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Torchvision's normalisation in its own words: it looks at its numbers, or passes proxies through (v2)."""
        if type(m).__module__.startswith("torchvision.transforms"):
            if type(m).__name__ != "Normalize" or not (args and isinstance(args[0], fx.Proxy)):
                raise fx.proxy.TraceError(f"{type(m).__name__} is not traced")  # torch.export may follow it
            mean, std = (args[0].new_tensor(numbers).reshape(-1, 1, 1) for numbers in (list(m.mean), list(m.std)))
            return (args[0] - mean) / std
        return super().call_module(m, forward, args, kwargs)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        path = own_path(next(reversed(self.module_stack), "").split("@")[0])
        calls = _calls((key, key.split("@")[0]) for key in self.module_stack)
        node.meta["custom"] = {"agf_fx": {"module": path, "calls": calls, "source": user_line()}}
        node.meta["gradient"] = _gradient(self._custom)
        return node


def _gradient(custom: set[types.CodeType]) -> str:
    """What is special about the gradient of what is traced at this moment; a trace cannot tell it from its calls."""
    frame = sys._getframe(2)
    while frame and not (frame.f_code.co_filename.startswith(_OURS) and frame.f_code.co_name == "trace"):
        if frame.f_code in custom:
            return "custom"
        frame = frame.f_back
    return "" if torch.is_grad_enabled() else "stopped"


def _custom_forwards(kind: type = torch.autograd.Function) -> set[types.CodeType]:
    """The code of the forward of every ``autograd.Function`` but PyTorch's own."""
    found = {code for other in kind.__subclasses__() for code in _custom_forwards(other)}
    code = getattr(kind.forward, "__code__", None)
    return found if code is None or kind.__module__.startswith("torch.") else found | {code}


class _BufferReader(_Tracer):
    """Lets the model read the values of its buffers."""

    proxy_buffer_attributes = False


def origin(node: fx.Node) -> dict[str, Any]:
    """Module path, calls and source line of an exported call, from our tracer or else as torch.export recorded them.

    The calls are those of the modules around it: path -> how often the module was called before.
    """
    traced = (node.meta.get("custom") or {}).get("agf_fx")
    if traced:
        return traced
    recorded = (node.meta.get("nn_module_stack") or {}).items()
    entered = [(key, path) for key, (path, _) in recorded if path != _NO_MODULE]
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if line.strip()]
    files = [i for i, line in enumerate(lines) if line.startswith("File ") and not _elsewhere(line)]
    source = " ".join(lines[files[-1] : files[-1] + 2]) if files else ""
    return {"module": own_path(entered[-1][1]) if entered else "", "calls": _calls(entered), "source": source}


def _calls(entered: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Path -> how often the module was called before, of modules that are called again: "relu@1" is the second call."""
    calls = {}
    for key, path in entered:
        _, again, number = key.rpartition("@")
        if again and number.isdecimal():
            calls[own_path(path)] = int(number)
    return calls


def _elsewhere(line: str) -> bool:
    return any(f'"{path}' in line for path in _NOT_THE_USERS)


def user_line() -> str:
    """The innermost line outside torch, above our tracer and below the call of `capture`."""
    frame, between = sys._getframe(2), _Tracer.call_module.__code__
    while frame and (
        frame.f_code is between or frame.f_code.co_filename.startswith((_TORCH, "<", contextlib.__file__))
    ):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(_OURS):
        return ""
    name, number = frame.f_code.co_filename, frame.f_lineno
    return f"{name}:{number}: {linecache.getline(name, number).strip()}"
