"""Convolutions and matrix products of relevances and gradients in a lower precision, and nothing else."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.rewriting import insert_before, is_call, substitute, weights_only
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS

aten = torch.ops.aten


def reduce_product_precision(explanation: ExplanationGraph, dtype: torch.dtype) -> ExplanationGraph:
    """Compute the products of relevances and gradients with a layer's weight in ``dtype``; results are float32 again.

    The forward pass stays as it is, and the logits with it: its rounding decides which ReLUs are open, which is all
    that bfloat16 costs the maps (rank correlation with float32 down to 0.985 with the forward pass in bfloat16, 0.9999
    without; see docs/measurements.md). Sums over positions, maxima, means, divisions and the factorisation stay in
    float32 as well. float16 has a narrow range, and relevance does not: its products are taken of samples scaled to a
    maximum of 1 and scaled back, which is exact for a linear map, but for what falls below the smallest float16.
    """
    fixed = weights_only(explanation.graph)
    for node in list(explanation.graph.nodes):
        if node.op == "call_function" and node.meta["stream"] != "forward" and _is_layer_product(node, fixed):
            _reduce(node, dtype)
    return explanation


def _is_layer_product(node: fx.Node, fixed: set[fx.Node]) -> bool:
    if node in fixed:
        return False
    if is_call(node, *CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, aten.linear.default):
        return True
    return is_call(node, aten.matmul.default) and (node.args[1] in fixed or node.args[1].op == "placeholder")


def _reduce(node: fx.Node, dtype: torch.dtype) -> None:
    operand, weight, *rest = node.args
    size = _largest(node, operand) if dtype is torch.float16 else None
    if size is not None:
        operand = insert_before(node, aten.div.Tensor, operand, size)
    arguments = [insert_before(node, aten.to.dtype, value, dtype) for value in (operand, weight)]
    result = insert_before(node, node.target, *arguments, *rest)
    result = insert_before(node, aten.to.dtype, result, torch.float32)
    if size is not None:
        result = insert_before(node, aten.mul.Tensor, result, size)
    substitute(node, result)


def _largest(product: fx.Node, operand: fx.Node) -> fx.Node:
    """The largest absolute entry of each sample that the product treats alike, or a tiny number if all are 0."""
    dims = [-1] if product.target in (aten.linear.default, aten.matmul.default) else _channels_and_positions(product)
    size = insert_before(product, aten.amax.default, insert_before(product, aten.abs.default, operand), dims, True)
    return insert_before(product, aten.clamp_min.default, size, torch.finfo(torch.float32).tiny)


def _channels_and_positions(convolution: fx.Node) -> list[int]:
    """The dimensions of one sample; strides are given for each position."""
    return list(range(1, 2 + len(convolution.args[3])))
