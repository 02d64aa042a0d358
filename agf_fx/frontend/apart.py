"""Whether a model treats every image of a batch by itself."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from agf_fx.errors import CaptureError
from agf_fx.frontend.running import run
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import BATCH, TensorType
from agf_fx.ir.vocabulary import STEPS


def check_samples_apart(canonical: CanonicalGraph, model: nn.Module, images: Tensor) -> None:
    """Check that the logits of an image do not depend on the rest of the batch.

    Single operations are judged by their arguments. A reshape cannot be, where the batch is not the first dimension, or
    is counted together with others: whether it mixes samples depends on the order within that dimension. Nor is judged
    what becomes of masks made of the images. A model with either is run on two batches that share their first image.

    Args:
        canonical: the model's graph.
        model: where its weights are.
        images: two, whose shape, dtype and device matter.

    Raises:
        CaptureError: the logits of the shared image differ.
    """
    signals = [node for node in canonical.graph.nodes if node.meta.get("depends_on_images")]
    if all(map(_batch_first, signals)) and not any(node.target in STEPS for node in canonical.calls):
        return
    first, *others = torch.randn(3, *images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
    with torch.no_grad():
        one, two = (run(canonical, model, torch.stack([first, other]))[0] for other in others)
    if not torch.allclose(one, two, rtol=1e-4, atol=1e-4 * float(one.abs().max()), equal_nan=True):
        raise CaptureError(
            f"{canonical.name} mixes samples of a batch: the logits of an image change with the other images. Look for "
            "a reshape or transpose that moves the batch dimension among the others, and keep it first; or for a mask "
            "that is summed over the batch."
        )


def _batch_first(node: fx.Node) -> bool:
    kind = node.meta["type"]
    return not isinstance(kind, TensorType) or (bool(kind.shape) and kind.shape[0] == BATCH)
