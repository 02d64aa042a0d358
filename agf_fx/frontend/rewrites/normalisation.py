"""Normalisations, softmax, variance and length."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import getitem
from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.arithmetic import new
from agf_fx.frontend.rewrites.editing import become, give_way, insert, kind_of
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten


def _batch_norm(node: fx.Node) -> None:
    """The exported call returns a triple, of which the first is read."""
    x, weight, bias, mean, var, momentum, eps = node.args
    first, *others = sorted(node.users, key=lambda user: user.args[1])
    if first.args[1] == 0 and not any(other.users for other in others):
        args = (x, weight, bias, mean, var, False, momentum, eps, False)
        give_way(first, insert(first, aten.batch_norm.default, *args, type=first.meta["type"]))


def _instance_norm(node: fx.Node) -> None:
    """By the statistics of each channel of a sample, which is a group; or by stored ones, as batch norm does."""
    x, weight, bias, mean, var, by_sample, momentum, eps, _ = node.args
    if by_sample:
        become(node, aten.group_norm.default, x, kind_of(x).shape[1], weight, bias, eps, False)
    else:
        become(node, aten.batch_norm.default, x, weight, bias, mean, var, False, momentum, eps, False)


def _rms_norm(node: fx.Node) -> None:
    """With the ε that the dtype stands for, where none is given."""
    x, shape, weight, eps = node.args
    node.args = (x, list(shape), weight, torch.finfo(kind_of(x).dtype).eps if eps is None else eps)


def _softmax(target: Callable[..., Any]) -> Callable[[fx.Node], None]:
    """Without a dtype; one that changes the dtype is a conversion before."""

    def rewrite(node: fx.Node) -> None:
        x, dim, *_ = node.args
        if kind_of(x).dtype is not kind_of(node).dtype:
            x = insert(node, aten.to.dtype, x, kind_of(node).dtype)
        become(node, target, x, dim % kind_of(x).rank, None)

    return rewrite


def _length(node: fx.Node) -> None:
    """√Σx² stays an operation; Σ|x|, max|x| and (Σ|x|ᵖ)^(1/p) are made of others."""
    x, order, dims, keepdim = node.args
    if not depends_on_images(x) or kind_of(node).dtype is not kind_of(x).dtype:
        return
    dims = every_dim(x, dims)
    if order == 2:
        become(node, aten.linalg_vector_norm.default, x, 2, dims, keepdim)
    elif order == 1:
        become(node, aten.sum.dim_IntList, insert(node, aten.abs.default, x), dims, keepdim)
    elif order == math.inf:
        become(node, aten.amax.default, insert(node, aten.abs.default, x), dims, keepdim)
    elif 0 < order < math.inf:
        powers = insert(node, aten.pow.Tensor_Scalar, insert(node, aten.abs.default, x), order)
        total = insert(node, aten.sum.dim_IntList, powers, dims, keepdim)
        become(node, aten.pow.Tensor_Scalar, total, 1 / order)
    else:
        node.target = aten.norm.ScalarOpt_dim  # its name without a rule, which is refused


def _matrix_length(node: fx.Node) -> None:
    """``linalg.norm``: of any dimensions √Σx² where no order is given; of one dimension the vector's length."""
    x, order, dims, keepdim = node.args
    if depends_on_images(x) and (order is None or (dims and len(dims) == 1)):
        node.args = (x, 2 if order is None else order, dims, keepdim)
        _length(node)


def every_dim(x: fx.Node, dims: list[int] | None) -> list[int]:
    """The dimensions in ascending order, counted from the front; all of them where none is given."""
    rank = kind_of(x).rank
    return sorted(dim % rank for dim in dims) if dims else list(range(rank))


def _variance(root: bool) -> Callable[[fx.Node], None]:
    """Σ(x - mean x)² / (n - correction), and its square root."""

    def rewrite(node: fx.Node) -> None:
        x, dims, *rest = node.args
        if not depends_on_images(x) or dims is None:
            return
        if node.target in (aten.var.correction, aten.std.correction):
            correction, keepdim = node.kwargs.get("correction"), node.kwargs.get("keepdim", False)
            correction = 1 if correction is None else correction
        else:
            correction, keepdim = int(rest[0]), rest[1]
        dims = every_dim(x, dims)
        count = math.prod(kind_of(x).shape[dim] for dim in dims)
        if not isinstance(count, int) or count <= correction:
            return
        centred = new(node, aten.sub.Tensor, x, insert(node, aten.mean.dim, x, dims, True))
        squares = insert(node, aten.mul.Tensor, centred, centred)
        variance = (aten.sum.dim_IntList, squares, dims, keepdim)
        scale = 1 / (count - correction)
        if root:
            variance = insert(node, aten.mul.Tensor, insert(node, *variance), scale)
            become(node, aten.sqrt.default, variance)
        else:
            become(node, aten.mul.Tensor, insert(node, *variance), scale)

    return rewrite


def _cosine_similarity(node: fx.Node) -> None:
    """Σ ab / (max(|a|, ε) max(|b|, ε))."""
    first, second, dim, eps = node.args
    product = new(node, aten.mul.Tensor, first, second)
    dims = [dim % kind_of(product).rank]
    similarity = insert(node, aten.sum.dim_IntList, product, dims, True)
    for value in (first, second):
        axis = dims[0] - kind_of(product).rank + kind_of(value).rank
        length = insert(node, aten.linalg_vector_norm.default, value, 2, [axis], True)
        length = insert(node, aten.clamp.default, length, eps, None)
        similarity = new(node, aten.div.Tensor, similarity, length)
    become(node, aten.sum.dim_IntList, similarity, dims, False)


def _variance_and_mean(node: fx.Node) -> None:
    """Each of the two results by its own operation."""
    x, dims = node.args
    if not depends_on_images(x) or any(reader.target is not getitem for reader in node.users):
        return
    dims, keepdim = every_dim(x, dims), node.kwargs.get("keepdim", False)
    correction = node.kwargs.get("correction")
    for reader in list(node.users):
        if reader.args[1]:
            give_way(reader, insert(reader, aten.mean.dim, x, dims, keepdim))
            continue
        with node.graph.inserting_before(reader):
            options = {"correction": correction, "keepdim": keepdim}
            variance = node.graph.call_function(aten.var.correction, (x, dims), options)
        variance.meta = dict(reader.meta)
        give_way(reader, variance)
        _variance(root=False)(variance)


NORMALISATION: dict[Callable[..., Any], Callable[[fx.Node], None]] = {
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.instance_norm.default: _instance_norm,
    aten.rms_norm.default: _rms_norm,
    **dict.fromkeys((aten.softmax.int, aten.special_softmax.default), _softmax(aten.softmax.int)),
    **dict.fromkeys((aten.log_softmax.int, aten.special_log_softmax.default), _softmax(aten.log_softmax.int)),
    aten.linalg_vector_norm.default: _length,
    aten.linalg_norm.default: _matrix_length,
    **dict.fromkeys((aten.var.dim, aten.var.correction), _variance(root=False)),
    aten.var_mean.correction: _variance_and_mean,
    **dict.fromkeys((aten.std.dim, aten.std.correction), _variance(root=True)),
    aten.cosine_similarity.default: _cosine_similarity,
}
