"""Batch norms folded into the layer before them, in the forward pass and in the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.rewriting import insert_before, is_call, substitute, weights_only
from agf_fx.ir.types import TensorType
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS

aten = torch.ops.aten

_ADJOINTS = dict(zip(CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, strict=True)) | {aten.linear.default: aten.matmul.default}


def fold_batch_norms(explanation: ExplanationGraph) -> ExplanationGraph:
    """Scale weights instead of feature maps: BN(Wx + b) = (sW)x + (b - mean)s + β, and Wᵀ(s ⊙ g) = (sW)ᵀg.

    s = γ / √(variance + eps), per output channel. The algebra holds for any s, zero and negative ones included.
    Relevance rules keep reading the unfolded weight (|W|, W⁺, W⁻), so nothing is asked of them: what is invariant under
    the scale, and what is not (the z^B rule), comes out as without this pass. A batch norm stays where something else
    reads the layer's output, as the z^B rule does when the layer has no bias.
    """
    ranks = {node.name: node.meta["type"].rank for node in explanation.canonical.calls if not _has_no_rank(node)}
    for node in list(explanation.graph.nodes):
        if is_call(node, aten.batch_norm.default) and _foldable(node, ranks):
            _fold_forward(node)
    fixed = weights_only(explanation.graph)
    adjoints = {node.name: _ADJOINTS.get(node.target) for node in explanation.canonical.calls}
    for node in list(explanation.graph.nodes):
        is_gradient = is_call(node, aten.mul.Tensor) and node.meta["stream"] == "gradient"
        if is_gradient and node.args[1] in fixed and _is_channel_scale(node.args[1]):
            _fold_gradient(node, adjoints)
    return explanation


def _has_no_rank(node: fx.Node) -> bool:
    return not isinstance(node.meta["type"], TensorType)


def _foldable(norm: fx.Node, ranks: dict[str, int]) -> bool:
    layer = norm.args[0]
    if not is_call(layer, *_ADJOINTS) or len(layer.users) != 1:
        return False
    # A linear layer's outputs are the channels only where there are no further dimensions.
    return layer.target in CONVOLUTIONS or ranks[norm.meta["site"]] == 2


def _fold_forward(norm: fx.Node) -> None:
    layer, gamma, beta, mean, variance, _, _, eps, _ = norm.args
    x, weight, bias, *geometry = layer.args
    norm.prepend(layer)  # the statistics may be computed in between
    scale = insert_before(layer, aten.rsqrt.default, insert_before(layer, aten.add.Scalar, variance, eps))
    if gamma is not None:
        scale = insert_before(layer, aten.mul.Tensor, gamma, scale)
    if bias is None:
        centred = insert_before(layer, aten.neg.default, mean)
    else:
        centred = insert_before(layer, aten.sub.Tensor, bias, mean)
    shift = insert_before(layer, aten.mul.Tensor, centred, scale)
    if beta is not None:
        shift = insert_before(layer, aten.add.Tensor, shift, beta)
    layer.args = (x, _scaled(layer, weight, scale), shift, *geometry)
    substitute(norm, layer)


def _fold_gradient(scaled: fx.Node, adjoints: dict[str, Any]) -> None:
    """Wᵀ(s ⊙ g) -> (sW)ᵀg, where every reader of s ⊙ g is such a product."""
    g, channel_scale = scaled.args
    products = [product for user in scaled.users for product in _products(user, scaled, adjoints)]
    if not all(product and _scales_channels(channel_scale, product) for product in products):
        return
    for product in products:
        arguments = list(product.args)
        arguments[1] = _scaled(product, arguments[1], channel_scale.args[0])
        product.args = tuple(arguments)
    if "stream_of" in scaled.meta:  # the gradient at the layer's output is no longer computed
        del scaled.meta["stream_of"]
    scaled.replace_all_uses_with(g)
    scaled.graph.erase_node(scaled)


def _products(user: fx.Node, operand: fx.Node, adjoints: dict[str, Any]) -> list[fx.Node | None]:
    """The adjoints of layers that read ``operand`` through ``user``; None stands for anything else."""
    if is_call(user, aten.flatten.using_ints) and user.args[1:] == (0, 1):
        return [product for reader in user.users for product in _products(reader, user, adjoints)]
    is_product = is_call(user) and user.target is adjoints.get(user.meta.get("site")) and user.args[0] is operand
    return [user if is_product else None]


def _is_channel_scale(value: Any) -> bool:
    """A vector shaped to scale channels: s of shape (C, 1, 1), (C, 1) or the like, or (C,) before a linear layer."""
    return is_call(value, aten.reshape.default) and value.args[1][0] == -1 and set(value.args[1][1:]) <= {1}


def _scales_channels(scale: fx.Node, product: fx.Node) -> bool:
    """Whether ``scale`` lies along the dimension that ``product`` sums over: (C,), or (C, 1, ...) before positions."""
    return len(scale.args[1]) == _weight_rank(product) - 1


def _scaled(layer: fx.Node, weight: fx.Node, scale: fx.Node) -> fx.Node:
    """The weight with its output channels, the first dimension, scaled."""
    column = insert_before(layer, aten.reshape.default, scale, [-1, *[1] * (_weight_rank(layer) - 1)])
    return insert_before(layer, aten.mul.Tensor, weight, column)


def _weight_rank(product: fx.Node) -> int:
    """The number of dimensions of the weight of a layer or of its adjoint."""
    for spatial, convolutions in enumerate(zip(CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, strict=True), 1):
        if product.target in convolutions:
            return spatial + 2
    return 2
