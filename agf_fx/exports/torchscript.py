"""TorchScript: for ``torch.jit.load`` in Python, and libtorch in C++."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from math import inf, nan  # noqa: F401  fx writes infinite numbers by these names
from typing import Any

import torch
from torch import Tensor, fx, nn

from agf_fx.exports.metadata import MEMBER
from agf_fx.exports.standalone import Standalone
from agf_fx.ir.graph import ExplanationGraph


def write(explainer: Standalone, metadata: str, path: str | os.PathLike[str]) -> None:
    """Write a TorchScript archive.

    Args:
        explainer: what to write.
        metadata: JSON, stored as a file of the archive.
        path: the file to write.

    Raises:
        OSError: it cannot be written.
    """
    module = to_torchscript(explainer.explanation, explainer.weights)
    with deprecation_silenced(), open(path, "wb") as file:
        torch.jit.save(module, file, _extra_files={MEMBER: metadata})


def to_torchscript(explanation: ExplanationGraph, weights: Mapping[str, Tensor]) -> torch.jit.ScriptModule:
    """A script module ``(images, target) -> (maps, logits)``.

    Its file holds the weights alone. What depends on nothing else is prepared when the file is loaded, before anybody
    can call the module. Prepared constants are buffers like the weights, and move with them to another device.

    Args:
        explanation: a lowered graph, contiguous.
        weights: placeholder name -> weight or constant.
    """
    prepared, needed = _prepare(explanation, weights)
    saved = {name: weights[name] for name in dict.fromkeys([*needed, *explanation.inputs]) if name in weights}
    holder = type("Explanation", (nn.Module,), {})().eval()  # a class of its own: those of alike modules are shared
    for name, tensor in (saved | prepared).items():
        holder.register_buffer(name, tensor.detach().clone(memory_format=torch.contiguous_format))
    methods = [
        _method("explain", explanation.graph),
        f"def forward(self, images, target):\n    return self.explain(images, target, {_own(explanation.inputs)})",
        f"def __getstate__(self):\n    return [{_own(saved)}], self.training",
        _loading(saved, needed, prepared),
    ]
    if prepared:
        methods.insert(0, _method("prepare", explanation.prepare.graph))
    with deprecation_silenced():
        module = torch.jit.script(holder)
        for text in methods:
            module.define(text + "\n")
    return module


def _prepare(explanation: ExplanationGraph, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The prepared constants by name, and the names of the weights that they are made of."""
    if not explanation.prepared:
        return {}, []
    needed = [node.name for node in explanation.prepare.graph.nodes if node.op == "placeholder"]
    constants = explanation.prepare(*(weights[name] for name in needed))
    return dict(zip(explanation.prepared, constants, strict=True)), needed


def _loading(saved: Iterable[str], needed: Iterable[str], prepared: Iterable[str]) -> str:
    """The method that takes what was saved, in the order of ``__getstate__``, and prepares the rest."""
    lines = ["def __setstate__(self, state: Tuple[List[Tensor], bool]) -> None:", "self.training = state[1]"]
    lines += [f"self.{name} = state[0][{index}]" for index, name in enumerate(saved)]
    if prepared:
        lines.append(f"prepared = self.prepare({_own(needed)})")
    lines += [f"self.{name} = prepared[{index}]" for index, name in enumerate(prepared)]
    return "\n    ".join(lines)


def _own(names: Iterable[str]) -> str:
    return ", ".join(f"self.{name}" for name in names)


def _method(name: str, original: fx.Graph) -> str:
    """A graph as the text of a method that takes its placeholders.

    TorchScript knows operations by packet and picks the overload itself. It frees values after their last use without
    being told, and has no statement for it.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(original, {}))
    for node in graph.nodes:
        if node.op == "call_function":
            node.target = _packet(node.target)
    text = graph.python_code("self").src
    text = re.sub(r";  [\w =]+ = None$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\bdevice\(type=('\w+')(?:, index=\d+)?\)", r"torch.device(\1)", text)
    return text[text.index("def ") :].replace("forward", name, 1)


def _packet(target: Callable[..., Any]) -> Callable[..., Any]:
    if target is torch.ops.aten.sym_size.int:
        return torch.ops.aten.size
    return target.overloadpacket if isinstance(target, torch._ops.OpOverload) else target


class deprecation_silenced(warnings.catch_warnings):
    """TorchScript is deprecated upstream and says so at every use; nothing else is silenced."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..*deprecated.*")
