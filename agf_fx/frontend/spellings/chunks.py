"""Chunks: convolutions of the parts of one map, joined, are one grouped convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import give_way, insert, kind_of
from agf_fx.frontend.rewrites.values import is_call
from agf_fx.frontend.spellings.detours import part_of
from agf_fx.ir.vocabulary import CONVOLUTIONS

aten = torch.ops.aten


def join_chunks(node: fx.Node) -> None:
    """cat(conv_i(x_i)) as one convolution, where the x_i are all channels of x in order, and the kernels are alike."""
    if not is_call(node, aten.cat.default) or node.args[1] != 1 or len(node.args[0]) < 2:
        return
    layers = [_layer(item) for item in node.args[0]]
    first = layers[0]
    if not all(is_call(layer, first.target) for layer in layers) or first.target not in CONVOLUTIONS:
        return
    x = _whole([layer.args[0] for layer in layers])
    alike = all(layer.args[3:6] == first.args[3:6] and _kernel(layer) == _kernel(first) for layer in layers)
    biases = [layer.args[2] for layer in layers]
    if x is None or not alike or (None in biases and any(bias is not None for bias in biases)):
        return
    weight = insert(node, aten.cat.default, [layer.args[1] for layer in layers], 0)
    bias = None if biases[0] is None else insert(node, aten.cat.default, biases, 0)
    groups = sum(layer.args[6] for layer in layers)
    give_way(node, insert(node, first.target, x, weight, bias, *first.args[3:6], groups))


def _layer(item: fx.Node) -> fx.Node:
    """Before reshapes that come back to the layer's shape, as where single channels are stacked."""
    value = item
    while is_call(value, aten.reshape.default):
        value = value.args[0]
    return value if kind_of(value) == kind_of(item) else item


def _kernel(layer: fx.Node) -> tuple[Any, ...]:
    """Outputs and inputs of a group, and the size."""
    outputs, *rest = kind_of(layer.args[1]).shape
    return outputs // layer.args[6], *rest


def _whole(parts: list[fx.Node]) -> fx.Node | None:
    """The value whose channels ``parts`` are, one after the other."""
    source, end = None, 0
    for part in parts:
        found = part_of(part)
        if found is None or found[1] != 1 or (source or found[0]) is not found[0] or found[2] != end:
            return None
        source, end = found[0], found[3]
        if kind_of(part).shape != (*kind_of(source).shape[:1], end - found[2], *kind_of(source).shape[2:]):
            return None
    return source if end == kind_of(source).shape[1] else None
