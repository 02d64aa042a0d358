"""Where the dimensions of a value come from: which dimension of the images, or the features of which layer.

Every dimension of a value is a product of *axes*, in the order in which they are counted: of an image (N, C, H, W) in
patches, (N, positions, features), the positions are rows of H and columns of W, the features C and the rest of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import sympy
import torch
from torch import fx

from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import BATCH, TensorType, carried_type
from agf_fx.ir.vocabulary import (
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    VOCABULARY,
    Family,
    depends_on_images,
    family_of,
    signals,
)

aten = torch.ops.aten

WEIGHTS = "weights"  # the source of what a dimension of parameters, or of other constants, is repeated along

_PRIME = 1_000_003  # stands for the batch size, so that no other size is a multiple of it

_POOLING = {
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
    aten.upsample_linear1d.default,
    aten.upsample_bilinear2d.default,
    aten.upsample_trilinear3d.default,
}
REDUCTIONS = {
    aten.mean.dim: 1,
    aten.sum.dim_IntList: 1,
    aten.amax.default: 1,
    aten.logsumexp.default: 1,
    aten.linalg_vector_norm.default: 2,
}  # and where their dimensions stand among the arguments


class Axis(NamedTuple):
    """A part of a dimension.

    Attributes:
        sources: dimensions of the images, by number (0 is the batch), and features of layers, by node name; `WEIGHTS`
            where it is only one of weights; empty where nothing is known.
        size: how many entries.
    """

    sources: frozenset[int | str]
    size: int


Dimension = tuple[Axis, ...]


def axes(canonical: CanonicalGraph) -> dict[fx.Node, tuple[Dimension, ...]]:
    """The axes of every value that depends on the images, dimension by dimension."""
    images = canonical.images
    found = {images: tuple((Axis(frozenset({dim}), size),) for dim, size in enumerate(sizes(images.meta["type"])))}
    for node in canonical.calls:
        if depends_on_images(node):
            found[node] = _followed(node, found)
    return found


def sources(dimension: Dimension) -> frozenset[int | str]:
    """All that a dimension comes from."""
    return frozenset().union(*(axis.sources for axis in dimension))


def sizes(kind: TensorType) -> list[int]:
    """The shape as numbers."""
    return [size if isinstance(size, int) else int(sympy.sympify(size).subs(BATCH, _PRIME)) for size in kind.shape]


def _whole(size: int, of: set[int | str] | frozenset[int | str] = frozenset()) -> Dimension:
    return () if size == 1 else (Axis(frozenset(of), size),)


def _followed(node: fx.Node, found: dict[fx.Node, tuple[Dimension, ...]]) -> tuple[Dimension, ...]:
    kind = carried_type(node)
    if not isinstance(kind, TensorType):
        return ()
    shape, known = sizes(kind), [found[signal] for signal in signals(node) if signal in found]
    if not known:
        return tuple(map(_whole, shape))
    x = known[0]
    if node.target not in VOCABULARY:
        return _changed(x, shape)
    match node.target:
        case aten.reshape.default:
            return _reshaped(x, shape)
        case aten.permute.default:
            return tuple(x[dim] for dim in node.args[1])
        case aten.select.int:
            return tuple(dimension for dim, dimension in enumerate(x) if dim != node.args[1])
        case aten.matmul.default if family_of(node) is not Family.LINEAR and len(known) == 2:
            return (*_aligned([x[:-1]], shape[:-1]), _resized(known[1][-1], shape[-1]))
    if node.target in REDUCTIONS:
        gone = {dim % len(x) for dim in node.args[REDUCTIONS[node.target]]}
        kept = [dimension for dim, dimension in enumerate(x) if dim not in gone]
        return tuple(kept) if len(kept) == len(shape) else _aligned([x], shape)
    if family_of(node) is Family.LINEAR:
        return (*_aligned([x[:-1]], shape[:-1]), _whole(shape[-1], {node.name}))
    if node.target in CONVOLUTIONS or node.target in TRANSPOSED_CONVOLUTIONS:
        return (x[0], _whole(shape[1], {node.name}), *map(_resized, x[2:], shape[2:]))
    if node.target in _POOLING:
        return (*x[:2], *map(_resized, x[2:], shape[2:]))
    return _by_weights(node, _aligned(known, shape), shape)


def _by_weights(node: fx.Node, dimensions: tuple[Dimension, ...], shape: Sequence[int]) -> tuple[Dimension, ...]:
    """Dimensions that only the constant operands of an operation on single entries have come from those."""
    fixed = [source.meta["type"] for source in node.all_input_nodes if not depends_on_images(source)]
    result = list(dimensions)
    for position, size in enumerate(shape, start=-len(shape)):
        there = any(
            isinstance(kind, TensorType) and -position <= kind.rank and kind.shape[position] == size for kind in fixed
        )
        if size > 1 and there and not sources(result[position]):
            result[position] = _whole(size, {WEIGHTS})
    return tuple(result)


def _aligned(known: Sequence[tuple[Dimension, ...]], shape: Sequence[int]) -> tuple[Dimension, ...]:
    """Of values that broadcast to a shape: each dimension as in the first of them that has it."""
    result = []
    for position, size in enumerate(shape, start=-len(shape)):
        there = [dimensions[position] for dimensions in known if -position <= len(dimensions)]
        result.append(_resized(next((dimension for dimension in there if sources(dimension)), ()), size))
    return tuple(result)


def _resized(dimension: Dimension, size: int) -> Dimension:
    """The same dimension with more or fewer entries."""
    same = math.prod(axis.size for axis in dimension) == size
    return dimension if same else _whole(size, sources(dimension))


def _reshaped(x: Sequence[Dimension], shape: Sequence[int]) -> tuple[Dimension, ...]:
    """Axes dealt out anew, in order; split where a dimension takes a part of one. Those of size 1 may be left out."""
    pending = [axis for dimension in x for axis in dimension]
    result: list[Dimension] = []
    for size in shape:
        taken: list[Axis] = []
        if size == 1 and pending and pending[0].size == 1:
            taken.append(pending.pop(0))
        while size > 1 and pending:
            axis = pending.pop(0)
            common = math.gcd(size, axis.size)
            if axis.size == 1:
                continue
            if common not in (size, axis.size):  # neither divides the other: what is where cannot be told
                return _untold(x, shape)
            taken.append(Axis(axis.sources, common))
            if axis.size > common:
                pending.insert(0, Axis(axis.sources, axis.size // common))
            size //= common
        result.append(tuple(taken))
    return tuple(result)


def _changed(x: Sequence[Dimension], shape: Sequence[int]) -> tuple[Dimension, ...]:
    """Of an operation that nothing is known of: dimensions whose size it keeps are kept, the others may be anywhere."""
    if len(x) != len(shape):
        return _untold(x, shape)
    kept = [math.prod(axis.size for axis in dimension) == size for dimension, size in zip(x, shape, strict=True)]
    moved = _untold([dimension for dimension, same in zip(x, kept, strict=True) if not same], shape)
    return tuple(old if same else new for old, new, same in zip(x, moved, kept, strict=True))


def _untold(x: Sequence[Dimension], shape: Sequence[int]) -> tuple[Dimension, ...]:
    """Everything may be anywhere, but for the batch, which is where its size is."""
    everything = frozenset().union(*map(sources, x))
    return tuple(_whole(size, everything if size % _PRIME else {0, *everything}) for size in shape)
