"""One compiled image size: the graphs, and the weights they read from the model."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from agf_fx.errors import InputError
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph, tensor_at


class Program:
    """The canonical graph as a forward pass, and the explanation graph, with their inputs in order."""

    def __init__(self, canonical: CanonicalGraph, explanation: ExplanationGraph) -> None:
        self.canonical = canonical
        self.explanation = explanation
        self.forward = fx.GraphModule(nn.Module(), canonical.graph, canonical.name)
        placeholders = [node for node in canonical.graph.nodes if node.op == "placeholder"][1:]
        self.shapes = {node.name: tuple(node.meta["type"].shape) for node in placeholders}

    def inputs(self, model: nn.Module) -> list[Tensor]:
        """The weights and constants, as they are in the model at this moment.

        Raises:
            InputError: the model has lost or changed the shape of a parameter since it was captured.
        """
        signature = self.canonical.signature
        weights = {name: self._weight(model, name, path) for name, path in signature.weights.items()}
        like = next(iter(weights.values()), None)
        found = weights | {name: _moved(constant, like) for name, constant in signature.constants.items()}
        if self.explanation.prepare:
            with torch.no_grad():
                prepared = self.explanation.prepare(*(found[name] for name in self.shapes))
            found |= dict(zip(self.explanation.prepared, prepared, strict=True))
        return [found[name] for name in self.explanation.inputs]

    def run(self, images: Tensor, target: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps (N, K, H, W) and logits (N, classes) for targets (N, K)."""
        return self.explanation.module(images, target, *inputs)

    def _weight(self, model: nn.Module, name: str, path: str) -> Tensor:
        weight = tensor_at(model, path)
        if weight is None or tuple(weight.shape) != self.shapes[name]:
            raise InputError(
                f"{path} of {self.canonical.name} is no longer a tensor of shape {self.shapes[name]}; the model has "
                "changed since it was compiled. Compile it again."
            )
        return weight.detach()


def _moved(constant: Tensor, like: Tensor | None) -> Tensor:
    """A constant on the device, and of the floating dtype, of the weights."""
    if like is None:
        return constant
    return constant.to(like.device, like.dtype if constant.is_floating_point() else constant.dtype)
