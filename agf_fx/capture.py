"""nn.Module -> canonical graph.

The front end is ``torch.fx`` symbolic tracing; what it cannot trace goes to ``torch.export`` as it is. Either way
the program is exported with a symbolic batch size, functionalised (no in-place operation survives, and a module
used twice is two calls), and every call is written in one canonical spelling.
"""

from __future__ import annotations

import copy
import linecache
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from agf_fx.canonicalise import canonicalise
from agf_fx.errors import CaptureError, InputError
from agf_fx.ir.graph import CanonicalGraph, Signature
from agf_fx.ir.types import type_of
from agf_fx.ir.verify import verify_canonical


def capture(model: nn.Module, example_inputs: Tensor | tuple[Tensor]) -> CanonicalGraph:
    """Capture a classifier as a canonical graph.

    The model is not touched: tracing runs on a structural copy that shares its parameters and buffers.

    Args:
        model: a module that maps images (N, C, H, W) to logits (N, classes). A model in training mode is captured
            with evaluation semantics, with a warning.
        example_inputs: an image batch (N, C, H, W), or a tuple with just that; any N ≥ 1, floating dtype, on the
            device of the model. Only shape, dtype and device matter. The graph serves every batch size.

    Returns:
        The canonical graph. ``print`` it: the text is deterministic.

    Raises:
        CaptureError: the model cannot be traced, does not return one (N, classes) tensor, or fixes the batch size.
        UnsupportedOpError: the model uses an operation without a rule.
        InputError: ``example_inputs`` is not one floating batch of images.
    """
    images = _example(example_inputs)
    if model.training:
        warnings.warn(
            f"{type(model).__name__} is in training mode; it is captured with evaluation semantics "
            "(dropout off, stored batch-norm statistics). Call model.eval() to silence this.",
            UserWarning,
            stacklevel=2,
        )
    program = _export(_structural_copy(model), images)
    canonical = _adopt(program, type(model).__name__)
    canonicalise(canonical)
    verify_canonical(canonical)
    return canonical


def _example(example_inputs: Tensor | tuple[Tensor]) -> Tensor:
    items = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    if len(items) != 1 or not isinstance(items[0], Tensor):
        raise InputError("example_inputs must be one batch of images, or a tuple holding just that.")
    images = items[0]
    if images.dim() < 2 or images.shape[0] == 0 or not images.is_floating_point():
        raise InputError(
            f"the example batch is {images.dtype} of shape {tuple(images.shape)}; give floating-point images "
            "of shape (N, C, H, W) with N ≥ 1."
        )
    # Batch sizes 0 and 1 are special to symbolic shapes, so the example has two samples.
    return images.detach()[:1].expand(2, *images.shape[1:]).contiguous()


def _structural_copy(model: nn.Module) -> nn.Module:
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


class _Tracer(fx.Tracer):
    """Records, on every traced node, the module path and the user's source line."""

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        path = next(reversed(self.module_stack), "").split("@")[0]  # "relu@1" is the second call of "relu"
        node.meta["custom"] = {"agf_fx": {"module": path, "source": _user_line()}}
        return node


_LIBRARY = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def _user_line() -> str:
    frame = sys._getframe()
    while frame and (frame.f_code.co_filename.startswith(_LIBRARY) or frame.f_code.co_filename.startswith("<")):
        frame = frame.f_back
    if frame is None:
        return ""
    name, number = frame.f_code.co_filename, frame.f_lineno
    return f"{name}:{number}: {linecache.getline(name, number).strip()}"


def _trace(model: nn.Module) -> nn.Module:
    """The model traced symbolically, or as it is where symbolic tracing cannot follow it."""
    try:
        return fx.GraphModule(model, _Tracer().trace(model), type(model).__name__)
    except Exception:  # whatever user code raises on proxies; torch.export judges, and names the cause
        return model


def _export(model: nn.Module, images: Tensor) -> ExportedProgram:
    batch = torch.export.Dim("N", min=1)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dynamic = ({0: batch},)
            program = torch.export.export(_trace(model), (images,), dynamic_shapes=dynamic, strict=False)
            return program.run_decompositions({})
    except Exception as error:
        raise CaptureError(_export_failure(model, error)) from error


def _export_failure(model: nn.Module, error: Exception) -> str:
    name, cause = type(model).__name__, str(error).strip() or type(error).__name__
    cause = "\n".join(cause.splitlines()[:12])
    if "Constraints violated" in cause or "specialized" in cause:
        return (
            f"{name} fixes its batch size, and an explanation graph serves every batch size. Replace the fixed "
            f"number by x.shape[0] or -1. torch.export says:\n{cause}"
        )
    return (
        f"{name} could not be captured ({type(error).__name__}). Control flow that depends on tensor values must "
        f"be removed or moved out of forward(); the images must fit the model. torch.export says:\n{cause}"
    )


def _adopt(program: ExportedProgram, name: str) -> CanonicalGraph:
    """The exported program's graph with our metadata: images first, then weights, then constants."""
    inputs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    images = [n for n, spec in inputs.items() if spec.kind is InputKind.USER_INPUT]
    if len(images) != 1:
        raise CaptureError(f"{name}.forward takes {len(images)} tensors; agf-fx explains models of one image batch.")
    outputs = program.graph.output_node().args[0]
    if len(outputs) != 1 or not isinstance(outputs[0], fx.Node) or program.call_spec.out_spec.num_children:
        raise CaptureError(f"{name} must return one tensor of logits; wrap it in a module that returns that tensor.")

    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder" and node.users]
    batch = _batch_symbol(program, images[0])
    for node in sorted(placeholders, key=lambda node: node.name != images[0]):
        copies[node] = _copy(graph, node, copies, batch)
    for node in program.graph.nodes:
        if node.op == "call_function":
            copies[node] = _copy(graph, node, copies, batch)
    graph.output(copies[outputs[0]])

    weights, constants = {}, {}
    for node in placeholders:
        spec = inputs[node.name]
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            weights[copies[node].name] = spec.target
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            constants[copies[node].name] = program.constants[spec.target].detach().clone()
    return CanonicalGraph(name, graph, Signature(weights, constants))


def _batch_symbol(program: ExportedProgram, images: str) -> sympy.Expr:
    node = next(node for node in program.graph.nodes if node.name == images)
    size = node.meta["val"].shape[0]
    if isinstance(size, int):
        raise CaptureError("the model fixes its batch size; replace the fixed number by x.shape[0] or -1.")
    return size.node.expr


def _copy(graph: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node], batch: sympy.Expr) -> fx.Node:
    copied = graph.node_copy(node, copies.__getitem__)
    value = node.meta.get("val")
    origin = (node.meta.get("custom") or {}).get("agf_fx") or _exported_origin(node)
    copied.meta = {"type": type_of(value, batch), **(origin if node.op == "call_function" else {})}
    copied.meta["depends_on_images"] = any(n.meta["depends_on_images"] for n in copied.all_input_nodes) or (
        node.op == "placeholder" and value.dim() > 0 and value.shape[:1] != () and _is_batched(value, batch)
    )
    return copied


def _is_batched(value: Tensor, batch: sympy.Expr) -> bool:
    size = value.shape[0]
    return not isinstance(size, int) and size.node.expr == batch


def _exported_origin(node: fx.Node) -> dict[str, str]:
    """Module path and source line as torch.export recorded them, for models that were not traced symbolically."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if line.strip()]
    located = [i for i, line in enumerate(lines) if line.startswith("File ") and not _in_library(line)]
    source = " ".join(lines[located[-1] : located[-1] + 2]) if located else ""
    return {"module": stack[-1] if stack else "", "source": source}


def _in_library(line: str) -> bool:
    return any(folder in line for folder in _LIBRARY)
