"""From an explainer to a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agf_fx.errors import ExportError
from agf_fx.exports.formats import format_of, write
from agf_fx.exports.metadata import metadata
from agf_fx.exports.standalone import standalone
from agf_fx.ir.graph import BASELINE, CanonicalGraph
from agf_fx.methods.method import Method
from agf_fx.pipeline import lower, optimisations
from agf_fx.runtime.points import averaged, written_out
from agf_fx.runtime.weights import REDUCED, place


def export(
    canonical: CanonicalGraph,
    method: Method,
    weights: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    format: str | None,
    *,
    fingerprint: str,
    options: Mapping[str, Any],
    precision: str | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: Any = None,
) -> None:
    """Write an explainer to a file; see `agf_fx.Explainer.export`.

    The graph is lowered for the file: contiguous tensors, and memory reused only where the format keeps it so.

    Args:
        canonical: the captured model.
        method: the method to compile.
        weights: placeholder name -> weight or constant, in the dtype in which the graph is to run.
        path: the file to write.
        format: its format; None: as the ending of ``path`` says.
        fingerprint, options: for the metadata.
        precision: of products in the reverse walk, as in `agf_fx.compile`.
        class_names, preprocessing: for the metadata.

    Raises:
        ExportError: no file can hold the method.
    """
    if method.search is not None:
        raise ExportError(
            f"{method.name} searches for its maps step by step, which no file holds; export a method of one pass, or "
            'what this one looks at: "gradient".'
        )
    format = format_of(path, format)
    if method.step is not None:
        raise ExportError(
            f"{method.name} moves the weights by a gradient at every call, which no file can; export the method inside."
        )
    own, device = canonical.image_type.dtype, torch.device("cpu")
    dtype = place(own, precision, "contiguous", device).dtype
    steps = optimisations(
        REDUCED.get(precision), dtype=None if dtype == own else dtype, in_place=format == "torchscript"
    )
    explanation = lower(canonical, method, optimisations=steps)
    if method.points:
        explanation = written_out(explanation, method)
    elif method.baseline is not None:
        baselines = method.baseline.images(canonical.image_type)
        if len(baselines) > 1:
            explanation = averaged(explanation, method, len(baselines))
            weights = {**weights, BASELINE: baselines.to(weights[BASELINE])}
    ready = standalone(explanation, weights)
    description = metadata(
        canonical,
        format=format,
        method=method.name,
        options=options,
        fingerprint=fingerprint,
        dtype=ready.images.dtype,
        device=torch.device("cpu") if format == "onnx" else ready.images.device,
        class_names=class_names,
        preprocessing=preprocessing,
    )
    write(ready, description, path)
