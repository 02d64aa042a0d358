"""Which values cannot be negative, in canonical graphs as in explanation graphs."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import torch
from torch import fx

from agf_fx.ir.rewriting import is_call
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS

aten = torch.ops.aten

# Nonnegative whatever they read.
_ALWAYS = {
    aten.abs.default,
    aten.exp.default,
    aten.hardsigmoid.default,
    aten.new_ones.default,
    aten.ones_like.default,
    aten.relu.default,
    aten.sigmoid.default,
    aten.softmax.int,
    aten.sym_size.int,
}
# Nonnegative where everything they read is: sums of products, selections, means, data movement.
_INHERITED = {
    *CONVOLUTIONS,
    *TRANSPOSED_CONVOLUTIONS,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
    aten.amax.default,
    aten.amin.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
    aten.cat.default,
    aten.col2im.default,
    aten.expand.default,
    aten.flatten.using_ints,
    aten.linear.default,
    aten.matmul.default,
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
    aten.mean.dim,
    aten.narrow.default,
    aten.permute.default,
    aten.reshape.default,
    aten.roll.default,
    aten.select.int,
    aten.sign.default,
    aten.slice.Tensor,
    aten.sum.dim_IntList,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.upsample_bilinear2d.default,
    aten.upsample_linear1d.default,
    aten.upsample_trilinear3d.default,
    operator.getitem,
}
# Of these, the ones that may take a number in the place of a tensor, which then must not be negative either.
_ARITHMETIC = {
    aten.add.Scalar,
    aten.add.Tensor,
    aten.clamp_min.default,
    aten.div.Scalar,
    aten.div.Tensor,
    aten.mul.Scalar,
    aten.mul.Tensor,
}
_INHERITED |= _ARITHMETIC
# Of these, the ones that divide by a number, and its position.
_DIVISORS = {aten.avg_pool2d.default: 6, aten.avg_pool3d.default: 6}
# Nonnegative where their first argument is, and the number at this position.
_WITH_NUMBER = {aten.constant_pad_nd.default: 2, aten.masked_fill.Scalar: 2}
# Nonnegative where the number at this position is.
_FROM_BELOW = {aten.clamp.default: 1, aten.clamp_min.default: 1, aten.hardtanh.default: 1}


def nonnegative(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The calls among ``nodes`` (in the order of their graph) of which no entry can be below 0."""
    found: set[fx.Node] = set()
    for node in nodes:
        if is_call(node, *_ALWAYS) or _is_bounded(node):
            found.add(node)
        elif is_call(node, aten.index_select.default, *_WITH_NUMBER) and node.args[0] in found:
            if node.target not in _WITH_NUMBER or node.args[_WITH_NUMBER[node.target]] >= 0:
                found.add(node)
        elif is_call(node, *_INHERITED) and not _may_turn(node) and found.issuperset(node.all_input_nodes):
            found.add(node)
    return found


def _may_turn(node: fx.Node) -> bool:
    """Whether a number among the arguments may turn the sign: of a sum or product, a divisor, or one by keyword."""
    if set(node.kwargs) & {"alpha", "beta", "value", "other"}:
        return True
    if is_call(node, *_DIVISORS):
        divisor = node.args[_DIVISORS[node.target]] if len(node.args) > _DIVISORS[node.target] else None
        return "divisor_override" in node.kwargs or (divisor is not None and divisor < 0)
    numbers = [value for value in node.args if not isinstance(value, fx.Node)]
    return is_call(node, *_ARITHMETIC) and min(numbers, default=0) < 0


def _is_bounded(node: fx.Node) -> bool:
    """Whether ``node`` cuts off what is below a number that is not negative, and not above a negative one."""
    position = _FROM_BELOW[node.target] if is_call(node, *_FROM_BELOW) else None
    if position is None or node.kwargs:
        return False
    low, high = node.args[position], node.args[position + 1] if len(node.args) > position + 1 else None
    return isinstance(low, int | float) and low >= 0 and (high is None or (isinstance(high, int | float) and high >= 0))
