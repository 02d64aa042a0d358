"""Biases that are added behind a layer, as part of the layer."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import give_way, insert, kind_of
from agf_fx.frontend.rewrites.values import is_call
from agf_fx.ir.types import TensorType
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, depends_on_images

aten = torch.ops.aten


def take_biases_in(node: fx.Node) -> None:
    """Lx ± b, b one number for each output of the layer, as the layer with the bias ±b, where nobody else reads Lx.

    Rules that look at biases, as LRP's do, then see the one layer that it is.
    """
    if not is_call(node, aten.add.Tensor, aten.sub.Tensor):
        return
    turned = not depends_on_images(node.args[0])
    if turned and node.target is aten.sub.Tensor:
        return  # b - Lx, see `agf_fx.frontend.spellings.signs`
    layer, bias = node.args[::-1] if turned else node.args
    convolutions = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS)
    if not is_call(layer, aten.linear.default, *convolutions) or len(layer.users) != 1:
        return
    own = layer.args[2]
    if isinstance(bias, int | float) and own is not None:
        return _with_bias(node, layer, insert(node, node.target, own, bias))
    if not isinstance(bias, fx.Node) or depends_on_images(bias) or not isinstance(bias.meta["type"], TensorType):
        return
    spatial = 0 if layer.target is aten.linear.default else kind_of(layer).rank - 2
    channels = kind_of(layer).shape[-1 if not spatial and layer.target is aten.linear.default else 1]
    shape = kind_of(bias).shape
    plain = (channels, *[1] * spatial)
    leading = shape[: len(shape) - len(plain)]
    if shape[len(leading) :] != plain or any(size != 1 for size in leading) or len(shape) > kind_of(layer).rank:
        return
    if kind_of(bias).dtype != kind_of(layer).dtype:
        return
    vector = bias if shape == (channels,) else insert(node, aten.reshape.default, bias, [channels])
    if own is not None:
        vector = insert(node, node.target, own, vector)
    elif node.target is aten.sub.Tensor:
        vector = insert(node, aten.neg.default, vector)
    _with_bias(node, layer, vector)


def _with_bias(node: fx.Node, layer: fx.Node, vector: fx.Node) -> None:
    x, weight, _, *geometry = layer.args
    with_bias = insert(node, layer.target, x, weight, vector, *geometry, type=kind_of(layer))
    with_bias.meta |= {key: layer.meta[key] for key in ("module", "source")}
    give_way(node, with_bias)
