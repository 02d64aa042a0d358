"""nn.Module -> canonical graph.

The front end is ``torch.fx`` symbolic tracing; what it cannot trace goes to ``torch.export`` as it is. Either way
the program is exported with a symbolic batch size, functionalised (no in-place operation survives, and a module
used twice is two calls), and every call is written in one canonical spelling.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from agf_fx.errors import CaptureError, InputError
from agf_fx.frontend.adopt import adopt
from agf_fx.frontend.canonicalise import canonicalise
from agf_fx.frontend.copying import structural_copy
from agf_fx.frontend.tracing import export
from agf_fx.ir.graph import CanonicalGraph
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
    check_classifier(model)
    images = _example(example_inputs)
    check_placement(images, model.parameters(), type(model).__name__)
    if model.training:
        warnings.warn(
            f"{type(model).__name__} is in training mode; it is captured with evaluation semantics "
            "(dropout off, stored batch-norm statistics). Call model.eval() to silence this.",
            UserWarning,
            stacklevel=2,
        )
    program = export(structural_copy(model), images)
    canonical = canonicalise(adopt(program, model))
    verify_canonical(canonical)
    return canonical


def check_classifier(model: nn.Module) -> None:
    """Check that ``model`` is a plain module, not a wrapper around one.

    Raises:
        CaptureError: it is something else; the message says what to give instead.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(f"the model is a {type(model).__name__}; give a torch.nn.Module.")
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError("the model is already TorchScript; give the torch.nn.Module it was made from.")
    for wrapper, inside in (
        ("OptimizedModule", "_orig_mod"),
        ("DataParallel", "module"),
        ("DistributedDataParallel", "module"),
    ):
        if any(base.__name__ == wrapper for base in type(model).__mro__):
            raise CaptureError(f"the model is wrapped in {wrapper}; give the module inside, model.{inside}.")


def check_placement(images: Tensor, weights: Iterable[Tensor], name: str) -> None:
    """Check that images have the dtype and device of a model's weights.

    Raises:
        InputError: they differ.
    """
    model = next((weight for weight in weights if weight.is_floating_point()), images)
    if images.dtype != model.dtype or images.device != model.device:
        raise InputError(
            f"the images are {images.dtype} on {images.device}, the weights of {name} are {model.dtype} on "
            f"{model.device}; use images.to({str(model.device)!r}, {model.dtype})."
        )


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
