"""Layers that a model makes in its first forward pass: until then, it has no weights to explain."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from agf_fx.errors import CaptureError
from agf_fx.frontend.copying import structural_copy


def check_layers_made(model: nn.Module, twin: nn.Module) -> None:
    """Check that a copy has no parameters that the model lacks.

    Args:
        model: the model.
        twin: a copy, after a forward pass.

    Raises:
        CaptureError: which it has made.
    """
    known = dict(model.named_parameters())
    made = [path for path, _ in twin.named_parameters() if path not in known]
    if made:
        raise CaptureError(
            f"{type(model).__name__} makes layers in its first forward pass ({', '.join(made)}), and every copy would "
            "make them anew, with other weights. Call the model once on a batch, then compile."
        )


def check_layers_made_by_running(model: nn.Module, images: Tensor) -> None:
    """`check_layers_made`, with a copy that runs on some images."""
    twin = structural_copy(model, own_tensors=True)
    with torch.no_grad(), contextlib.suppress(Exception):  # what stands in the way of capturing is told elsewhere
        twin(images.clone())
    check_layers_made(model, twin)
