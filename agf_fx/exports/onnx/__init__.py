"""ONNX: for onnxruntime and other runtimes, on any platform."""

from __future__ import annotations

import os

import torch

from agf_fx.errors import ExportError, MissingDependencyError
from agf_fx.exports.standalone import Standalone


def write(explainer: Standalone, metadata: str, path: str | os.PathLike[str]) -> None:
    """Write an ONNX model of opset 18, checked by ``onnx.checker``.

    Inputs ``images`` (N, C, H, W) and ``target`` (N, K), outputs ``maps`` (N, K, H, W) and ``logits`` (N, classes); N
    and K are free.

    Args:
        explainer: what to write.
        metadata: JSON, stored among the properties of the model under ``agf_fx.json``.
        path: the file to write.

    Raises:
        ExportError: an operation, a dtype or the size of the weights has no place in an ONNX file.
        MissingDependencyError: onnx is not installed.
        OSError: the file cannot be written.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("ONNX files need onnx: pip install 'agf-fx[onnx]'.") from error
    from agf_fx.exports.onnx.model import onnx_model, save

    if explainer.images.dtype is not torch.float32:
        raise ExportError(
            f"this explainer computes in {str(explainer.images.dtype).removeprefix('torch.')}, and ONNX runtimes have "
            'convolutions in float32 only. Compile with precision="float32", or export in another format.'
        )
    save(onnx_model(explainer, metadata), path)
