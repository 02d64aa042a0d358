"""One spelling per operation: rewrites on the exported graph, then refusal of what has no rule."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from agf_fx.ir import text
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.refusal import refuse_unknown
from agf_fx.ir.types import TensorType
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten


def canonicalise(canonical: CanonicalGraph) -> CanonicalGraph:
    """Rewrite ``canonical`` to the vocabulary; its graph is consumed.

    Raises:
        UnsupportedOpError: an operation on the images' signal has no rule.
    """
    graph = canonical.graph
    for node in canonical.calls:
        _make_positional(node)
        rewrite = _REWRITES.get(node.target)
        if rewrite:
            rewrite(graph, node)
    _erase_dead(graph)
    for node in canonical.calls:
        refuse_unknown(canonical, node)
    return _renamed(canonical)


def _make_positional(node: fx.Node) -> None:
    """Write every argument by position, defaults included; keyword-only arguments stay for the rewrites."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    arguments, kwargs = list(node.args), dict(node.kwargs)
    for schema in node.target._schema.arguments[len(arguments) :]:
        if schema.kwarg_only:
            continue
        arguments.append(kwargs.pop(schema.name) if schema.name in kwargs else schema.default_value)
    node.args, node.kwargs = tuple(arguments), kwargs


# Rewrites. Each takes the graph and a node, and leaves the node's users with an equal value.


def _replace(graph: fx.Graph, node: fx.Node, target: Callable[..., Any], args: tuple[Any, ...]) -> fx.Node:
    with graph.inserting_before(node):
        new = graph.call_function(target, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return new


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    node.replace_all_uses_with(node.args[0])
    graph.erase_node(node)


def _erase_identity_dropout(graph: fx.Graph, node: fx.Node) -> None:
    _, probability, train = node.args
    if not train or probability == 0:
        _erase(graph, node)


def _batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    x, weight, bias, mean, var, momentum, eps = node.args
    first, *others = sorted(node.users, key=lambda user: user.args[1])
    if first.args[1] == 0 and not any(other.users for other in others):
        args = (x, weight, bias, mean, var, False, momentum, eps, False)
        _replace(graph, first, aten.batch_norm.default, args)


def _max_pool(graph: fx.Graph, node: fx.Node) -> None:
    kind, (x, kernel, stride, *rest) = node.meta["type"], node.args
    args = (x, _pair(kernel), _pair(stride) or _pair(kernel), *map(_pair_or_flag, rest))
    with graph.inserting_before(node):
        pooled = graph.call_function(aten.max_pool2d_with_indices.default, args)
    pooled.meta = node.meta | {"type": (kind, TensorType(kind.shape, torch.int64))}
    _replace(graph, node, operator.getitem, (pooled, 0))


def _average_pool(graph: fx.Graph, node: fx.Node) -> None:
    x, kernel, stride, padding, *rest = node.args
    node.args = (x, _pair(kernel), _pair(stride) or _pair(kernel), _pair(padding), *rest)


def _adaptive_pool(graph: fx.Graph, node: fx.Node) -> None:
    node.args = (node.args[0], _pair(node.args[1]))


def _pair(value: int | list[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _pair_or_flag(value: bool | int | list[int]) -> bool | list[int]:
    return value if isinstance(value, bool) else _pair(value)


def _convolution(graph: fx.Graph, node: fx.Node) -> None:
    x, weight, bias, stride, padding, dilation, groups = node.args
    node.args = (x, weight, bias, _pair(stride), _pair(padding), _pair(dilation), groups)


def _convolution_with_named_padding(graph: fx.Graph, node: fx.Node) -> None:
    x, weight, bias, stride, padding, dilation, groups = node.args
    dilation = _pair(dilation)
    total = [d * (k - 1) for d, k in zip(dilation, weight.meta["type"].shape[2:], strict=True)]
    if padding == "same" and any(size % 2 for size in total):
        return  # the two sides differ; refused by name
    sides = [size // 2 if padding == "same" else 0 for size in total]
    _replace(graph, node, aten.conv2d.default, (x, weight, bias, _pair(stride), sides, dilation, groups))


def _reshape(graph: fx.Graph, node: fx.Node) -> None:
    shape = node.meta["type"].shape
    if sum(not isinstance(size, int) for size in shape) == 1:
        size = [size if isinstance(size, int) else -1 for size in shape]
        _replace(graph, node, aten.reshape.default, (node.args[0], size))


def _transpose(graph: fx.Graph, node: fx.Node) -> None:
    x, first, second = node.args
    order = list(range(x.meta["type"].rank))
    order[first], order[second] = order[second], order[first]
    _replace(graph, node, aten.permute.default, (x, order))


def _permute(graph: fx.Graph, node: fx.Node) -> None:
    x, order = node.args
    node.args = (x, [dim % x.meta["type"].rank for dim in order])


def _mean(graph: fx.Graph, node: fx.Node) -> None:
    x, dims, keepdim = node.args
    rank = x.meta["type"].rank
    if dims and node.kwargs.get("dtype") is None:
        node.args, node.kwargs = (x, sorted(dim % rank for dim in dims), keepdim), {}


def _cat(graph: fx.Graph, node: fx.Node) -> None:
    tensors, dim = node.args
    node.args = (list(tensors), dim % tensors[0].meta["type"].rank)


def _sum(graph: fx.Graph, node: fx.Node) -> None:
    """a ± alpha·b becomes a ± b, with the product written out where alpha is not 1."""
    first, second = node.args
    alpha = node.kwargs.get("alpha", 1)
    if alpha != 1 and not isinstance(second, fx.Node):
        second = second * alpha
    elif alpha != 1:
        with graph.inserting_before(node):
            scaled = graph.call_function(aten.mul.Tensor, (second, alpha))
        scaled.meta = second.meta | {key: node.meta[key] for key in ("module", "source")}
        second = scaled
    node.args, node.kwargs = (first, second), {}


def _commuted_product(graph: fx.Graph, node: fx.Node) -> None:
    """constant · signal becomes signal · constant."""
    first, second = node.args
    if depends_on_images(second) and not depends_on_images(first):
        node.args = (second, first)


def _reversed_difference(graph: fx.Graph, node: fx.Node) -> None:
    """constant - x, which torch spells rsub(x, constant), becomes x · (-alpha) + constant."""
    x, constant, alpha = node.args
    with graph.inserting_before(node):
        negative = graph.call_function(aten.mul.Tensor, (x, -alpha))
    negative.meta = dict(node.meta)
    _replace(graph, node, aten.add.Tensor, (negative, constant))


def _softmax(graph: fx.Graph, node: fx.Node) -> None:
    x, dim, dtype = node.args
    if dtype is None:
        node.args = (x, dim % x.meta["type"].rank)


_REWRITES: dict[Callable[..., Any], Callable[[fx.Graph, fx.Node], None]] = {
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.conv2d.default: _convolution,
    aten.conv2d.padding: _convolution_with_named_padding,
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool2d.default: _average_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_pool,
    aten.dropout.default: _erase_identity_dropout,
    aten.feature_dropout.default: _erase_identity_dropout,
    **dict.fromkeys((aten.clone.default, aten.alias.default, aten.contiguous.default), _erase),
    **dict.fromkeys(
        (
            aten.view.default,
            aten._unsafe_view.default,
            aten.reshape.default,
            aten.flatten.using_ints,
            aten.unflatten.int,
            aten.squeeze.dim,
            aten.squeeze.dims,
            aten.unsqueeze.default,
        ),
        _reshape,
    ),
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.mean.dim: _mean,
    aten.cat.default: _cat,
    aten.add.Tensor: _sum,
    aten.sub.Tensor: _sum,
    aten.rsub.Scalar: _reversed_difference,
    aten.mul.Tensor: _commuted_product,
    aten.softmax.int: _softmax,
    aten.log_softmax.int: _softmax,
}


def _erase_dead(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users:
            graph.erase_node(node)


def _renamed(canonical: CanonicalGraph) -> CanonicalGraph:
    """The graph with calls named after module and operation, ``layer1_0_conv1_conv2d``, and ``images`` first."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in canonical.graph.nodes:
        args = fx.map_arg(node.args, copies.__getitem__)
        kwargs = fx.map_arg(node.kwargs, copies.__getitem__)
        copies[node] = graph.create_node(node.op, node.target, args, kwargs, name=_name(canonical, node))
        copies[node].meta = node.meta
    return replace(canonical, graph=graph)


def _name(canonical: CanonicalGraph, node: fx.Node) -> str:
    if node.op != "call_function":
        return "images" if node is canonical.images else node.name
    parts = [node.meta["module"].replace(".", "_"), text.op_name(node.target, short=True)]
    return "_".join(part for part in parts if part)
