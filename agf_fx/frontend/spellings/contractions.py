"""Linear layers by other names: products with a weight and their sum, and layers of vectors that are shaped as maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import give_way, insert, kind_of
from agf_fx.frontend.rewrites.values import is_call, known, number_of, reshaped, times
from agf_fx.ir.vocabulary import CONVOLUTIONS, depends_on_images, is_parametrised, signals

aten = torch.ops.aten


def find_linear_layers(node: fx.Node) -> None:
    """Write Σ x ⊙ W as a linear layer, and let one that reads vectors read them as (N, features)."""
    if is_call(node, aten.sum.dim_IntList, aten.mean.dim) and not node.kwargs:
        _sum_of_products(node)
    elif is_call(node, aten.linear.default):
        _of_vectors(node)
    elif is_call(node, *CONVOLUTIONS):
        _convolution_of_vectors(node)


# Σ x ⊙ W


@dataclass(frozen=True)
class _Contraction:
    """The dimensions of a product x ⊙ W that is summed.

    Attributes:
        summed: over which the sum runs; x has them all.
        outputs: which only W has.
        kept: which only x has, the batch among them.
    """

    summed: list[int]
    outputs: list[int]
    kept: list[int]


def _sum_of_products(node: fx.Node) -> None:
    product, dims, _ = node.args
    if (
        not is_call(product, aten.mul.Tensor)
        or depends_on_images(product.args[1])
        or number_of(product.args[1]) is not None
    ):
        return
    x, weight, shape = _unexpanded(product.args[0]), _unexpanded(product.args[1]), kind_of(product).shape
    own, given = _aligned(x, len(shape)), _aligned(weight, len(shape))
    found = _contraction(own, given, shape, dims)
    if (
        found is None
        or not all(isinstance(size, int) for size in given)
        or (not found.outputs and known(weight) is not None)
    ):
        return  # an average, or a product by position
    count = math.prod(shape[dim] for dim in found.summed)
    rows = math.prod(shape[dim] for dim in found.outputs)
    matrix = _ordered(node, weight, given, [*found.outputs, *found.summed], _full(given, found, shape))
    matrix = reshaped(node, matrix, [rows, count])
    vectors = _ordered(node, x, own, [*found.kept, *found.summed], None)
    leading = [_free(own[dim]) for dim in found.kept]
    vectors = reshaped(node, vectors, [*leading, count])
    result = insert(node, aten.linear.default, vectors, matrix, None)
    result = reshaped(node, result, [*leading, *(shape[dim] for dim in found.outputs)])
    places = [*found.kept, *found.outputs]
    if places != sorted(places):
        result = insert(node, aten.permute.default, result, [places.index(dim) for dim in sorted(places)])
    result = reshaped(node, result, kind_of(node).free_batch)
    give_way(node, times(node, result, 1 / count if node.target is aten.mean.dim else 1))


def _contraction(
    own: Sequence[Any], given: Sequence[Any], shape: Sequence[Any], dims: list[int]
) -> _Contraction | None:
    summed, outputs, kept = [], [], []
    for dim, size in enumerate(shape):
        mine, weighs = own[dim] != 1, given[dim] != 1
        if dim in dims:
            if not mine and size != 1:
                return None
            summed.append(dim)
        elif mine and weighs:
            return None
        else:
            (outputs if weighs else kept).append(dim)
    varies = any(given[dim] != 1 or shape[dim] == 1 for dim in summed)
    batches = [dim for dim in kept if not isinstance(own[dim], int)]
    return _Contraction(summed, outputs, kept) if varies and len(batches) == 1 else None


def _full(given: Sequence[Any], found: _Contraction, shape: Sequence[Any]) -> list[int] | None:
    """The weight's shape with every summed dimension, None where it has them."""
    full = [shape[dim] if dim in found.summed else size for dim, size in enumerate(given)]
    return None if full == list(given) else full


def _ordered(before: fx.Node, value: fx.Node, shape: list[Any], order: list[int], full: list[int] | None) -> fx.Node:
    """``value`` in the rank of ``shape``, perhaps repeated, with ``order`` first; other dimensions have size 1."""
    order = [*order, *(dim for dim in range(len(shape)) if dim not in order)]
    value = reshaped(before, value, [_free(size) for size in shape])
    if full:
        value = insert(before, aten.expand.default, value, full)
    return value if order == sorted(order) else insert(before, aten.permute.default, value, order)


def _free(size: Any) -> int:
    return size if isinstance(size, int) else -1


def _aligned(value: fx.Node, rank: int) -> list[Any]:
    return [1] * (rank - kind_of(value).rank) + list(kind_of(value).shape)


def _unexpanded(value: fx.Node) -> fx.Node:
    """Without the repetition to the product's shape."""
    return value.args[0] if is_call(value, aten.expand.default) else value


# Layers of vectors


def _of_vectors(node: fx.Node) -> None:
    """A linear layer that reads vectors (N, features) with dimensions of size 1 reads them without; and an input layer
    that reads the positions of a map counted with the images reads the map.
    """
    x, weight, bias = node.args
    source = _plain(x, kind_of(weight).shape[1]) or _with_positions(node, x)
    if source is not None and source is not x:
        layer = insert(node, aten.linear.default, source, weight, bias)
        give_way(node, reshaped(node, layer, kind_of(node).free_batch))


def _plain(x: Any, features: int) -> fx.Node | None:
    """The vectors (N, features) that ``x`` is, but for dimensions of size 1; None where it is none."""
    found = None
    while is_call(x, aten.reshape.default, aten.permute.default) and depends_on_images(x) and len(x.users) == 1:
        kind = kind_of(x)
        if kind.rank == 2 and kind.batched and kind.shape[1] == features:
            found = x
        if (is_call(x, aten.permute.default) and _moves(x)) or not _is_vector(x.args[0], features):
            return found
        x = x.args[0]
    kind = kind_of(x)
    return x if kind.rank == 2 and kind.batched and kind.shape[1] == features else found


def _is_vector(value: fx.Node, features: int) -> bool:
    """Whether there is one vector per image."""
    return sorted(map(str, (size for size in kind_of(value).shape if size != 1))) == sorted(["N", str(features)])


def _moves(permute: fx.Node) -> bool:
    """Whether a permutation does more than to move dimensions of size 1."""
    source, order = permute.args
    wide = [dim for dim in order if kind_of(source).shape[dim] != 1]
    return wide != sorted(wide)


def _with_positions(before: fx.Node, x: Any) -> fx.Node | None:
    """The map (N, ..., features) whose positions ``x`` counts with the images, all of them or before any layer."""
    if not is_call(x, aten.reshape.default) or kind_of(x).batched:
        return None
    source = x.args[0]
    while is_call(source, aten.reshape.default) and not kind_of(source).batched:
        source = source.args[0]
    sizes = [size for size in kind_of(source).free_batch if size != 1]
    same = kind_of(source).batched and len(sizes) > 2 and sizes[-1] == kind_of(x).shape[-1]
    every = sum(size != 1 for size in kind_of(x).shape) == 2
    return reshaped(before, source, sizes) if same and (every or not _behind_layer(source)) else None


def _behind_layer(value: fx.Node) -> bool:
    """Whether a layer stands at or before ``value``."""
    pending, seen = [value], set()
    while pending:
        node = pending.pop()
        if node in seen or node.op != "call_function":
            continue
        if is_parametrised(node):
            return True
        seen.add(node)
        pending.extend(signals(node))
    return False


def _convolution_of_vectors(node: fx.Node) -> None:
    """A convolution with a kernel of size 1 of vectors that are shaped as maps of one position."""
    x, weight, bias, _, padding, _, groups = node.args
    _, features, *kernel = kind_of(weight).shape
    if groups != 1 or any(padding) or {*kernel, *kind_of(x).shape[2:]} != {1}:
        return
    source = _plain(x, features)
    if source is not None:
        matrix = insert(node, aten.reshape.default, weight, list(kind_of(weight).shape[:2]))
        layer = insert(node, aten.linear.default, source, matrix, bias)
        give_way(node, reshaped(node, layer, kind_of(node).free_batch))
