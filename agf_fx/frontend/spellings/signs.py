"""Negative factors around a layer, as part of its weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import become, give_way, insert, kind_of
from agf_fx.frontend.rewrites.values import factor_of, is_call
from agf_fx.ir.types import TensorType
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, depends_on_images

aten = torch.ops.aten

_LAYERS = (aten.linear.default, *CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS)


def take_signs_in(node: fx.Node) -> None:
    """c·(Wx + b) as (cW)x + cb, W(cx) + b as (cW)x + b, and d - (Wx + b) as (-Wx - b) + d, c < 0.

    Only where nobody else reads what is in between.

    Rules that ask for the sign of weights or contributions then see what the layer hands on, and what it reads. A
    positive factor changes nothing for them.
    """
    if is_call(node, *_LAYERS):
        found = factor_of(node.args[0])
        if found and found[1] < 0 and len(node.args[0].users) == 1 and not depends_on_images(node.args[1]):
            x, factor = found
            _, weight, *rest = node.args
            node.args = (x, _times(node, weight, factor), *rest)
        return
    from_constant = is_call(node, aten.sub.Tensor) and _is_constant(node.args[0])
    found = (node.args[1], -1.0) if from_constant else factor_of(node)
    if not found or found[1] >= 0:
        return
    layer, factor = found
    if not is_call(layer, *_LAYERS) or len(layer.users) > 1 or depends_on_images(layer.args[1]):
        return
    x, weight, bias, *rest = layer.args
    with_bias = bias if bias is None else _times(node, bias, factor)
    turned = insert(node, layer.target, x, _times(node, weight, factor), with_bias, *rest, type=kind_of(layer))
    turned.meta |= {key: layer.meta[key] for key in ("module", "source")}
    if from_constant:
        become(node, aten.add.Tensor, turned, node.args[0])
    else:
        give_way(node, turned)


def _is_constant(value: Any) -> bool:
    """Whether a value is the same for every image; steps of images, through which no signal goes, are not."""
    if not isinstance(value, fx.Node):
        return isinstance(value, int | float)
    return not depends_on_images(value) and isinstance(kind_of(value), TensorType) and not kind_of(value).batched


def _times(before: fx.Node, weight: fx.Node, factor: float) -> fx.Node:
    """``factor`` · a weight; -1 · (-1 · w) is w."""
    if factor == -1:
        return weight.args[0] if is_call(weight, aten.neg.default) else insert(before, aten.neg.default, weight)
    return insert(before, aten.mul.Tensor, weight, factor)
