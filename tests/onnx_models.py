"""ONNX models of networks and of single operations, and running them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, fx, nn

from agf_fx.exports.onnx.model import onnx_model
from agf_fx.tracer import RuleTracer


def session(model: Any) -> Any:
    """A session on a file, or on the bytes of a model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model) if not isinstance(model, bytes) else model, options)


def run(model: Any, images: Tensor, target: Tensor) -> list[Tensor]:
    """Maps and logits."""
    return list(map(torch.tensor, model.run(["maps", "logits"], {"images": images.numpy(), "target": target.numpy()})))


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest, over the largest entry."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def compare(function: Callable[[Tensor], Any], x: Tensor, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """A function of ATen operations, in onnxruntime and in PyTorch; ``atol`` is for numbers up to 1."""
    expected = first(function(x))
    explainer = SimpleNamespace(module=traced(function), images=x, target=torch.zeros(len(x), 2).long())
    file = onnx_model(explainer, "{}")
    onnx.checker.check_model(file, full_check=True)
    found, _ = run(session(file.SerializeToString()), x, explainer.target)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol * float(expected.double().abs().max()))


def traced(function: Callable[[Any], Any]) -> fx.GraphModule:
    """As rules are; a second input and output stand for targets and logits."""
    tracer = RuleTracer()
    images, target = (fx.Proxy(tracer.graph.placeholder(name), tracer) for name in ("images", "target"))
    tracer.graph.output((first(function(images)).node, target.node))
    return fx.GraphModule(nn.Module(), tracer.graph)


def first(results: Any) -> Any:
    return results[0] if isinstance(results, tuple | list) else results


def around(low: float, high: float, *shape: int) -> Tensor:
    """Images of numbers in a range, ends included."""
    count = torch.Size(shape or (5, 2, 3, 4)).numel()
    return torch.linspace(low, high, count).reshape(shape or (5, 2, 3, 4))
