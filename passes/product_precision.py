"""Convolutions and matrix products in a lower precision, and nothing else."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.rewriting import insert_before, is_call, weights_only

aten = torch.ops.aten


def reduce_product_precision(explanation: ExplanationGraph, dtype: torch.dtype) -> ExplanationGraph:
    """Compute the products with a layer's weight in ``dtype``; their results are float32 again.

    Sums over positions, maxima, means, divisions and the factorisation stay in float32. float16 has a narrow range, and
    relevance does not: its products are taken of samples scaled to a maximum of 1 and scaled back, which is exact for a
    linear map, but for what falls below the smallest float16.
    """
    fixed = weights_only(explanation.graph)
    for node in list(explanation.graph.nodes):
        if _is_layer_product(node, fixed):
            _reduce(node, dtype, scale=dtype is torch.float16 and node.meta["stream"] != "forward")
    explanation.module.recompile()
    return explanation


def _is_layer_product(node: fx.Node, fixed: set[fx.Node]) -> bool:
    if node in fixed:
        return False
    if is_call(node, aten.conv2d.default, aten.conv_transpose2d.input, aten.linear.default):
        return True
    return is_call(node, aten.matmul.default) and (node.args[1] in fixed or node.args[1].op == "placeholder")


def _reduce(node: fx.Node, dtype: torch.dtype, scale: bool) -> None:
    operand, weight, *rest = node.args
    bias = rest[0] if rest and isinstance(rest[0], fx.Node) else None
    size = None
    if scale:
        sample = [-1] if node.target in (aten.linear.default, aten.matmul.default) else [1, 2, 3]
        size = insert_before(node, aten.amax.default, insert_before(node, aten.abs.default, operand), sample, True)
        size = insert_before(node, aten.clamp_min.default, size, torch.finfo(torch.float32).tiny)
        operand = insert_before(node, aten.div.Tensor, operand, size)
    arguments = [insert_before(node, aten.to.dtype, value, dtype) for value in (operand, weight)]
    if rest:
        rest[0] = bias and insert_before(node, aten.to.dtype, bias, dtype)
    product = insert_before(node, node.target, *arguments, *rest)
    result = insert_before(node, aten.to.dtype, product, torch.float32)
    if scale:
        result = insert_before(node, aten.mul.Tensor, result, size)
    for key in ("stream_of", "value_of"):
        if key in node.meta:
            result.meta[key] = node.meta[key]
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)
