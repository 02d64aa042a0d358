"""A look at a captured program before it is trusted: it must compute what the model computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from agf_fx.ambient import random_states
from agf_fx.errors import CaptureError
from agf_fx.frontend.outputs import Root
from agf_fx.frontend.running import trace_of
from agf_fx.frontend.straight_through import check_gradient, observed_logits
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import TensorType

_DRAWS = 8  # runs of a model that draws random numbers: what it decides by them may come out equal


def check_program(canonical: CanonicalGraph, root: Root, images: Tensor, drawing: list[str]) -> None:
    """Compare the program's logits with those of the model, which runs twice, so that chance and state are noticed.

    Done once for an architecture; it costs what three forward passes of them cost, and more only if the model
    draws random numbers, or stops gradients.

    Args:
        canonical: the program.
        root: a private copy of the model, which may write where it likes.
        images: one or two.
        drawing: the user's lines that drew random numbers while the model was traced.

    Raises:
        CaptureError: the model differs from itself or from the program; where the difference begins.
    """
    name, tolerance = canonical.name, _tolerance(canonical)
    before = random_states()
    first, trained = observed_logits(root, images)
    after = random_states()
    drawn = [source for source in before if before[source] != after[source]]
    again = [_logits(root, images) for _ in range(_DRAWS if drawn else 1)]
    differing = [logits for logits in again if not _equal(logits, first, tolerance)]
    if differing:
        raise CaptureError(_unsteady(name, _difference(differing[0], first), drawn, drawing))
    with torch.no_grad():
        env = trace_of(canonical, root.model, images)
    found = env[canonical.logits]
    if not _equal(found, first, tolerance):
        raise CaptureError(
            f"the program captured from {name} gives other logits than the model itself ({_difference(found, first)})"
            f"{_where(canonical, root, images, env, tolerance)}, so maps would be of another function. Look there for "
            "values that are taken out of tensors (.item(), .tolist(), NumPy), for what changes from call to call, and "
            "for Python that depends on them."
        )
    if trained is not None:
        check_gradient(canonical, root.model, images, trained)


def check_single(canonical: CanonicalGraph, root: Root, image: Tensor) -> None:
    """Check a model that takes a single image in its own way: it may fail there, or drop the batch dimension.

    Args:
        canonical: a program that computes what the model computes of two images.
        root: a private copy of the model.
        image: a batch of one.

    Raises:
        CaptureError: the model gives numbers of its own for a single image.
    """
    try:
        own = _logits(root, image)
    except Exception:  # the model's own limits; the program has none
        return
    with torch.no_grad():
        found = trace_of(canonical, root.model, image)[canonical.logits]
    if own.numel() != found.numel() or not _equal(found, own.reshape(found.shape), _tolerance(canonical)):
        raise CaptureError(
            f"{canonical.name} gives a single image other logits than the same image in a batch "
            f"({_difference(found, own.reshape(found.shape) if own.numel() == found.numel() else own)}), and an "
            "explanation graph serves every batch size. Remove what depends on the number of images from forward()."
        )


def check_widened(canonical: CanonicalGraph, twin: nn.Module, own: Root, images: Tensor, dtype: torch.dtype) -> None:
    """Check that a model in half precision is the same function as its copy in float32, which is what is explained.

    Args:
        canonical: the program of the copy.
        twin: the copy.
        own: a private copy of the model in its own precision.
        images: two, in float32.
        dtype: of the images that the model takes.

    Raises:
        CaptureError: the logits differ by more than rounding.
    """
    try:
        expected = _logits(own, images.to(dtype)).float()
    except Exception as error:  # whatever the model raises
        if "not implemented for" in str(error):  # operations that this device has not in half precision
            return
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise CaptureError(
            f"{canonical.name} fails when it is called on images in {str(dtype).removeprefix('torch.')} ({reason}). "
            "Check that model(images) works, or convert it: model.float()."
        ) from error
    with torch.no_grad():
        found = trace_of(canonical, twin, images)[canonical.logits]
    if not _equal(found, expected, torch.finfo(_shortest(own, dtype)).eps ** 0.5):
        raise CaptureError(
            f"{canonical.name} gives other logits in {str(dtype).removeprefix('torch.')} than in float32 "
            f"({_difference(found, expected)}), in which it would be explained. It decides by the dtype of its "
            "tensors, or its numbers leave the range of that dtype. Convert it: model.float()."
        )


def _shortest(root: Root, dtype: torch.dtype) -> torch.dtype:
    """The dtype with the fewest digits among the images' and the weights'."""
    dtypes = [dtype, *(weight.dtype for weight in root.parameters() if weight.is_floating_point())]
    return max(dtypes, key=lambda kind: torch.finfo(kind).eps)


def _logits(root: Root, images: Tensor) -> Tensor:
    """The model's own logits."""
    with torch.no_grad():
        return root(images.clone()).detach().clone()  # it may be a buffer that the next run writes to


def _unsteady(name: str, difference: str, drawn: list[str], drawing: list[str]) -> str:
    other = f"{name} gives other logits for the same images when it is called again ({difference})"
    if not drawn:
        return (
            f"{other}: it changes what it reads (a counter, a running mean, a cache), or reads a clock. A map would "
            "explain one of these calls. Leave the state alone in evaluation mode, under `if self.training:`."
        )
    lines = "".join(f"\n  at {line}" for line in dict.fromkeys(drawing) if line)
    return (
        f"{other}: its forward pass draws at random ({', '.join(drawn)}). A map would explain one of these calls. Pass "
        "training=self.training to what is random, put it under `if self.training:`, or draw it once, in __init__, and "
        f"keep it as a buffer.{lines}"
    )


def _tolerance(canonical: CanonicalGraph) -> float:
    """Half of the digits of the shortest arithmetic on the way; rounding stays far below."""
    kinds = [node.meta["type"] for node in canonical.graph.nodes if isinstance(node.meta.get("type"), TensorType)]
    return max(torch.finfo(kind.dtype).eps for kind in kinds if kind.dtype.is_floating_point) ** 0.5


def _equal(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Up to a part of the largest number."""
    if found.shape != expected.shape:
        return False
    finite = expected[torch.isfinite(expected)]
    largest = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(found, expected.to(found), rtol=tolerance, atol=tolerance * largest, equal_nan=True)


def _difference(found: Tensor, expected: Tensor) -> str:
    if found.shape != expected.shape:
        return f"shapes {tuple(found.shape)} and {tuple(expected.shape)}"
    largest, apart = float(expected.abs().max()), float((found - expected).abs().max())
    return f"they differ by up to {apart:.2g}, and the largest is {largest:.2g}"


def _where(canonical: CanonicalGraph, root: Root, images: Tensor, env: dict[fx.Node, Any], tolerance: float) -> str:
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
            if path and same_form and not _equal(known, output.detach(), tolerance):
                order.append(path)

        hooks.append(module.register_forward_hook(compare))
    try:
        _logits(root, images)
    finally:
        for hook in hooks:
            hook.remove()
    return f", from module {order[0]!r} on" if order else ""
