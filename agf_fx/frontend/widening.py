"""Models of several precisions as models of one.

Models in half precision are explained in float32: what their forward pass casts to half precision stays whole. Parts
that are wider than the images, as those that a model in float32 computes in float64, are computed in the images' dtype:
every weight and constant of a graph is given in one dtype.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import TensorType

REDUCED = (torch.float16, torch.bfloat16)
_CASTS = (Tensor.half, Tensor.bfloat16)


class Widening(TorchFunctionMode):
    """While it is on, whoever asks PyTorch for half precision gets float32."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _CASTS:
            return Tensor.float(*args, **(kwargs or {}))
        args, kwargs = pytree.tree_map(_wide, (args, kwargs or {}))
        return func(*args, **kwargs)


def _wide(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value in REDUCED else value


def is_reduced(weights: Iterable[Tensor]) -> bool:
    """Whether a model with these weights is explained as one in float32."""
    return any(weight.dtype in REDUCED for weight in weights)


def widening(reduced: bool) -> AbstractContextManager[Any]:
    """`Widening`, for a model in half precision."""
    return Widening() if reduced else nullcontext()


def narrow(canonical: CanonicalGraph) -> CanonicalGraph:
    """Give every value of an adopted graph that is wider than the images their dtype: constants, types and arguments.

    Weights stay what the model holds; where one is wider, a conversion stands behind it.
    """
    wanted = canonical.image_type.dtype

    def narrowed(value: Any) -> Any:
        if isinstance(value, TensorType):
            return TensorType(value.shape, narrowed(value.dtype))
        if isinstance(value, torch.dtype) and value.is_floating_point and value.itemsize > wanted.itemsize:
            return wanted
        return tuple(map(narrowed, value)) if type(value) is tuple else value

    constants = canonical.signature.constants
    for node in list(canonical.graph.nodes):
        kind = node.meta.get("type")
        if node.name in canonical.signature.weights:
            if narrowed(kind) != kind:
                _convert(node, wanted)
            continue
        node.meta["type"] = narrowed(kind)
        if node.name in constants:
            constants[node.name] = constants[node.name].to(narrowed(constants[node.name].dtype))
        elif node.op == "call_function":
            node.args, node.kwargs = (fx.node.map_aggregate(given, narrowed) for given in (node.args, node.kwargs))
    return canonical


def _convert(weight: fx.Node, dtype: torch.dtype) -> None:
    readers = list(weight.users)
    first = next(node for node in weight.graph.nodes if node.op != "placeholder")
    with weight.graph.inserting_before(first):
        converted = weight.graph.call_function(torch.ops.aten.to.dtype, (weight, dtype))
    converted.meta = {"type": TensorType(weight.meta["type"].shape, dtype), "depends_on_images": False}
    converted.meta |= {"module": "", "source": ""}
    for reader in readers:
        reader.replace_input_with(weight, converted)
