"""A look at a captured program before it is trusted: it must compute what the model computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from agf_fx.errors import CaptureError
from agf_fx.frontend.outputs import Root
from agf_fx.frontend.straight_through import check_gradient, observed_logits
from agf_fx.ir.graph import CanonicalGraph, tensor_at

_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3}  # of the largest logit; rounding stays far below


def check_program(canonical: CanonicalGraph, root: Root, images: Tensor) -> None:
    """Compare the program's logits with those of the model, which runs twice, so that chance is noticed.

    Nothing of the user's is touched: images and buffers are copies, and random numbers are drawn from a fork.

    Args:
        canonical: the program.
        root: the private copy of the model that was captured.
        images: a small batch of the user's.

    Raises:
        CaptureError: the model differs from itself or from the program; where the difference begins.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, trained = observed_logits(root, _buffers(root), images)
        again = _logits(root, images)
        if not _equal(first, again):
            raise CaptureError(
                f"{canonical.name} gives other logits for the same images when it is called again "
                f"({_difference(first, again)}): its forward pass draws at random, or keeps a state. A map would "
                "explain one of these calls. Pass training=self.training to what is random, and compute from the "
                "images alone."
            )
        weights = _weights(canonical, root.model)
        env = _run(canonical, weights, images)
    found = env[canonical.logits]
    if not _equal(found, first):
        raise CaptureError(
            f"the program captured from {canonical.name} gives other logits than the model itself "
            f"({_difference(found, first)}){_where(canonical, root, images, env)}, so maps would be of another "
            "function. Look there for values that are taken out of tensors (.item(), .tolist(), NumPy), for what "
            "changes from call to call, and for Python that depends on them."
        )
    if trained is not None:
        check_gradient(canonical, weights, images, trained)


def _buffers(root: Root) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in root.named_buffers()}


def _logits(root: Root, images: Tensor) -> Tensor:
    """The model's own logits."""
    return functional_call(root, _buffers(root), (images.clone(),)).detach().clone()


def _weights(canonical: CanonicalGraph, model: nn.Module) -> list[Tensor]:
    """What the program takes besides images."""
    signature = canonical.signature
    return [
        signature.constants[node.name]
        if node.name in signature.constants
        else tensor_at(model, signature.weights[node.name]).detach()
        for node in canonical.graph.find_nodes(op="placeholder")[1:]
    ]


def _run(canonical: CanonicalGraph, weights: list[Tensor], images: Tensor) -> dict[fx.Node, Any]:
    """The value of every node of the program."""
    program = fx.Interpreter(fx.GraphModule(nn.Module(), canonical.graph), garbage_collect_values=False)
    program.run(images, *weights)
    return program.env


def _equal(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    finite = expected[torch.isfinite(expected)]
    tolerance = _TOLERANCES.get(expected.dtype, 1e-3)
    largest = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * largest, equal_nan=True)


def _difference(found: Tensor, expected: Tensor) -> str:
    if found.shape != expected.shape:
        return f"shapes {tuple(found.shape)} and {tuple(expected.shape)}"
    largest, apart = float(expected.abs().max()), float((found - expected).abs().max())
    return f"they differ by up to {apart:.2g}, and the largest is {largest:.2g}"


def _where(canonical: CanonicalGraph, root: Root, images: Tensor, env: dict[fx.Node, Any]) -> str:
    """The first module whose output differs, in words; empty where that cannot be told."""
    mine: dict[str, Tensor] = {}
    for node in canonical.calls:
        if isinstance(env.get(node), Tensor):
            mine[node.meta["module"]] = env[node]
    order: list[str] = []
    hooks = []
    for path, module in root.model.named_modules():

        def compare(module: nn.Module, given: object, output: object, path: str = path) -> None:
            known = mine.get(path)
            same_form = isinstance(output, Tensor) and known is not None and output.shape == known.shape
            if path and same_form and not _equal(known, output.detach()):
                order.append(path)

        hooks.append(module.register_forward_hook(compare))
    try:
        _logits(root, images)
    finally:
        for hook in hooks:
            hook.remove()
    return f", from module {order[0]!r} on" if order else ""
