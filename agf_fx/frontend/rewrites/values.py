"""What is known of a value: that it is one number throughout, or the tensor that the model's code fixes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from agf_fx.frontend.rewrites.editing import insert, kind_of, value_of
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten

_ZEROS = {aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten.zero.default}
_ONES = {aten.ones.default, aten.ones_like.default, aten.new_ones.default}
_FILLED = {  # where the number stands
    aten.full.default: 1,
    aten.full_like.default: 1,
    aten.new_full.default: 2,
    aten.fill.Scalar: 1,
    aten.scalar_tensor.default: 0,
}
_REARRANGED = {
    *(aten.reshape.default, aten.view.default, aten.expand.default, aten.permute.default, aten.slice.Tensor),
    *(aten.select.int, aten.clone.default, aten.to.dtype, aten._to_copy.default, aten.unsqueeze.default),
}
CONVERSIONS = {aten.to.dtype, aten._to_copy.default, aten.type_as.default}


def number_of(value: Any) -> float | None:
    """The number that every entry of ``value`` is, as far as the program alone tells; None where it does not."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return value
    if not isinstance(value, fx.Node) or depends_on_images(value):
        return None
    known = value_of(value)
    if known is not None:
        one = known.dtype is not torch.bool and known.numel() > 0 and bool((known == known.flatten()[0]).all())
        return known.flatten()[0].item() if one else None
    if value.target in _ZEROS:
        return 0
    if value.target in _ONES:
        return 1
    if value.target in _FILLED:
        return number_of(value.args[_FILLED[value.target]])
    return number_of(value.args[0]) if value.target in _REARRANGED else None


def known(value: Any) -> Tensor | None:
    """The tensor that ``value`` is, where the model's code fixes it, perhaps rearranged."""
    if not isinstance(value, fx.Node) or value_of(value) is not None:
        return value_of(value)
    if value.target not in _REARRANGED:
        return None
    source = known(value.args[0])
    return None if source is None else value.target(source, *value.args[1:], **value.kwargs)


def is_call(value: Any, *targets: Any) -> bool:
    """Whether ``value`` is a node that calls one of ``targets``."""
    return isinstance(value, fx.Node) and value.op == "call_function" and value.target in targets


def same_shape(node: fx.Node, x: Any) -> bool:
    """Whether ``x`` is a value of the shape and dtype of ``node``."""
    return isinstance(x, fx.Node) and kind_of(x) == kind_of(node)


def factor_of(node: Any) -> tuple[fx.Node, float] | None:
    """(x, c) where ``node`` is c · x, x a signal and c a number that is not 0."""
    if is_call(node, aten.neg.default) and depends_on_images(node):
        return node.args[0], -1.0
    if not is_call(node, aten.mul.Tensor, aten.div.Tensor) or not depends_on_images(node.args[0]):
        return None
    x, number = node.args[0], number_of(node.args[1])
    if not isinstance(number, int | float) or number == 0 or not same_shape(node, x):
        return None
    return x, float(number) if node.target is aten.mul.Tensor else 1 / number


def times(before: fx.Node, x: fx.Node, factor: float) -> fx.Node:
    """``factor`` · x, and x itself where the factor is 1 but for rounding."""
    return x if abs(factor - 1) < 1e-14 else insert(before, aten.mul.Tensor, x, factor)


def reshaped(before: fx.Node, x: fx.Node, shape: list[int]) -> fx.Node:
    """``x`` in another shape (-1 for the batch), read from before any reshapes that it comes by and nobody else reads.

    Where others read it, relevance meets, and stays so.
    """
    while is_call(x, aten.reshape.default) and len(x.users) < 2:
        x = x.args[0]
    return x if kind_of(x).free_batch == shape else insert(before, aten.reshape.default, x, shape)
