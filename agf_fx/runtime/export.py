"""Exports: an explainer as a file that runs without agf-fx."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import fx, nn

from agf_fx.atomic import atomic_write
from agf_fx.errors import ExportError
from agf_fx.ir.graph import ExplanationGraph
from agf_fx.runtime.program import Program

FORMATS = ("torchscript",)


def export(program: Program, model: nn.Module, path: str | os.PathLike[str], format: str) -> None:
    """Write ``program`` with the weights of ``model``; see `agf_fx.Explainer.export`.

    Raises:
        ExportError: unknown format, or the file cannot be written.
    """
    if format not in FORMATS:
        raise ExportError(f"no export format {format!r}; choose one of {', '.join(map(repr, FORMATS))}.")
    weights = {name: program.placement.cast(value.detach()) for name, value in program.weights.current(model).items()}
    scripted = to_torchscript(with_weights(program.explanation, weights))
    extra = {"agf_fx.json": json.dumps(metadata(program.explanation), indent=1)}
    try:
        with atomic_write(path) as file, _deprecation_silenced():
            torch.jit.save(scripted, file, _extra_files=extra)
    except OSError as error:
        raise ExportError(f"{os.fspath(path)} cannot be written: {error.strerror or error}.") from error


def metadata(explanation: ExplanationGraph) -> dict[str, Any]:
    """What an exported file says of itself."""
    canonical = explanation.canonical
    return {
        "model": canonical.name,
        "method": explanation.method,
        "image_shape": list(canonical.image_type.sample_shape),
        "classes": canonical.num_classes,
        "agf_fx": version("agf-fx"),
        "torch": torch.__version__,
    }


def with_weights(explanation: ExplanationGraph, weights: dict[str, torch.Tensor]) -> fx.GraphModule:
    """The graph as a module ``(images, target) -> (maps, logits)`` that holds the weights as buffers.

    Prepared constants are not stored but computed at every call, so that the file holds the weights once.
    """
    holder, graph = nn.Module(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    values: dict[str, fx.Node] = {}
    inputs = [graph.placeholder(node.name) for node in list(explanation.graph.nodes)[:2]]
    for name, weight in weights.items():
        holder.register_buffer(name, weight.clone(memory_format=torch.contiguous_format))
        values[name] = graph.get_attr(name)
    if explanation.prepare:
        copies = {node: values[node.name] for node in explanation.prepare.graph.nodes if node.op == "placeholder"}
        prepared = graph.graph_copy(explanation.prepare.graph, copies)
        values |= dict(zip(explanation.prepared, prepared, strict=True))
    placeholders = [node for node in explanation.graph.nodes if node.op == "placeholder"]
    copies = dict(zip(placeholders, [*inputs, *(values[name] for name in explanation.inputs)], strict=True))
    graph.output(graph.graph_copy(explanation.graph, copies))
    graph.eliminate_dead_code()
    return fx.GraphModule(holder, graph, "Explanation")


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
