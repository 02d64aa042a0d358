"""Matrix products, with a constant matrix or of two signals, and attention written out with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.arithmetic import new, repeat_signals, scaled
from agf_fx.frontend.rewrites.editing import become, constant, give_way, insert, kind_of
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten


def _matmul(node: fx.Node) -> None:
    if node.meta["depends_on_images"]:
        give_way(node, matrix_product(node, *node.args))


def matrix_product(before: fx.Node, first: fx.Node, second: fx.Node) -> fx.Node:
    """A new matrix product: x W of a constant matrix as a linear layer, C x as (xᵀ Cᵀ)ᵀ, others of two operands."""
    first, second = _for_all(first), _for_all(second)
    if kind_of(first).rank == 1 or kind_of(second).rank == 1:
        return _vector_product(before, first, second)
    if depends_on_images(second) and not depends_on_images(first):
        return transposed(before, matrix_product(before, transposed(before, second), transposed(before, first)))
    if depends_on_images(first) and not depends_on_images(second) and _is_one_matrix(first, second):
        return insert(before, aten.linear.default, first, transposed(before, _as_matrix(before, second)), None)
    product = insert(before, aten.matmul.default, first, second)
    repeat_signals(product, keep=2)
    return product


def _vector_product(before: fx.Node, first: fx.Node, second: fx.Node) -> fx.Node:
    """x v and v x: the vector as a matrix of one column or row, which the result then loses."""
    lost = -1 if kind_of(second).rank == 1 else -2
    if kind_of(first).rank == 1:
        first = insert(before, aten.reshape.default, first, [1, *kind_of(first).free_batch])
    if kind_of(second).rank == 1:
        second = insert(before, aten.reshape.default, second, [*kind_of(second).free_batch, 1])
    product = matrix_product(before, first, second)
    shape = kind_of(product).free_batch
    del shape[lost]
    return insert(before, aten.reshape.default, product, shape)


def _for_all(matrix: fx.Node) -> fx.Node:
    """A constant that is repeated for every image, as the one that it is."""
    if matrix.target is aten.expand.default and not depends_on_images(matrix):
        source = matrix.args[0]
        if kind_of(source).rank >= 2 and kind_of(source).shape[-2:] == kind_of(matrix).shape[-2:]:
            return source
    return matrix


def _is_one_matrix(x: fx.Node, matrix: fx.Node) -> bool:
    """Whether one and the same matrix meets all of x: it has no other dimensions, or of size 1, and not more than x."""
    *batch, _, _ = kind_of(matrix).shape
    return all(size == 1 for size in batch) and len(batch) <= kind_of(x).rank - 2


def _as_matrix(before: fx.Node, value: fx.Node) -> fx.Node:
    """A matrix that has leading dimensions of size 1, without them."""
    shape = kind_of(value).shape
    return value if len(shape) == 2 else insert(before, aten.reshape.default, value, list(shape[-2:]))


def transposed(before: fx.Node, matrix: fx.Node) -> fx.Node:
    """The two last dimensions exchanged."""
    *batch, rows, columns = range(kind_of(matrix).rank)
    return insert(before, aten.permute.default, matrix, [*batch, columns, rows])


def _addmm(node: fx.Node) -> None:
    """beta · a + alpha · (b C), of matrices or of batches of matrices."""
    added, first, second = node.args
    beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    if not node.meta["depends_on_images"]:
        return
    product = scaled(node, matrix_product(node, first, second), alpha)
    if beta == 0:
        give_way(node, product)
    else:
        become(node, aten.add.Tensor, product, scaled(node, added, beta))
        repeat_signals(node)


def _bilinear(node: fx.Node) -> None:
    """y_o = Σ_ij a_i W_oij b_j + bias_o: Σ_j (a W)_oj b_j."""
    first, second, weight, bias = node.args
    if depends_on_images(weight) or not (depends_on_images(first) or depends_on_images(second)):
        return
    outputs, rows, columns = kind_of(weight).shape
    matrix = insert(node, aten.permute.default, weight, [1, 0, 2])
    matrix = insert(node, aten.reshape.default, matrix, [rows, outputs * columns])
    leading = kind_of(node).free_batch[:-1]
    partial = insert(node, aten.reshape.default, matrix_product(node, first, matrix), [*leading, outputs, columns])
    second = insert(node, aten.reshape.default, second, [*leading, columns, 1])
    product = insert(node, aten.reshape.default, matrix_product(node, partial, second), [*leading, outputs])
    if bias is None:
        give_way(node, product)
    else:
        become(node, aten.add.Tensor, product, bias)


def _attention(node: fx.Node) -> None:
    """softmax(q kᵀ · scale + mask) v."""
    q, k, v, mask, dropout, causal = node.args
    if dropout or not node.meta["depends_on_images"]:
        return
    if node.kwargs.get("enable_gqa"):
        k, v = (_for_every_head(node, value, kind_of(q).shape[-3]) for value in (k, v))
    scale = node.kwargs.get("scale")
    scale = 1 / math.sqrt(kind_of(q).shape[-1]) if scale is None else scale
    scores = matrix_product(node, scaled(node, q, scale), transposed(node, k))
    if causal:
        mask = constant(node, torch.full(kind_of(scores).shape[-2:], -math.inf, dtype=kind_of(q).dtype).triu(1))
    if mask is not None and kind_of(mask).dtype is torch.bool:
        hidden = insert(node, aten.logical_not.default, mask)
        scores = insert(node, aten.masked_fill.Scalar, scores, hidden, -math.inf)
    elif mask is not None:
        scores = new(node, aten.add.Tensor, scores, mask)
    weights = insert(node, aten.softmax.int, scores, kind_of(scores).rank - 1, None)
    give_way(node, matrix_product(node, weights, v))


def _for_every_head(before: fx.Node, value: fx.Node, heads: int) -> fx.Node:
    """Keys or values of groups of heads, (..., groups, tokens, features), repeated for every head of a group."""
    *batch, groups, tokens, features = kind_of(value).free_batch
    column = insert(before, aten.reshape.default, value, [*batch, groups, 1, tokens, features])
    copies = insert(before, aten.expand.default, column, [*batch, groups, heads // groups, tokens, features])
    return insert(before, aten.reshape.default, copies, [*batch, heads, tokens, features])


ATTENTION: dict[Callable[..., Any], Callable[[fx.Node], None]] = {
    **dict.fromkeys((aten.matmul.default, aten.bmm.default, aten.mm.default, aten.mv.default), _matmul),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), _addmm),
    aten.bilinear.default: _bilinear,
    aten.scaled_dot_product_attention.default: _attention,
}
