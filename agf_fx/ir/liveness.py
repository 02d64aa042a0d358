"""How much memory the values of an explanation graph take at their peak."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from enum import StrEnum
from operator import getitem
from typing import Any

import sympy
import torch
from torch import fx

from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.types import BATCH, TARGETS, TensorType
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS

aten = torch.ops.aten

# Their result shares the memory of their first argument.
VIEWS = {
    aten.chunk.default,
    aten.expand.default,
    aten.flatten.using_ints,
    aten.narrow.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.permute.default,
    aten.reshape.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    getitem,
}


class Copies(StrEnum):
    """What convolutions copy besides their weight while they run.

    On a CPU, those of float32 and less bring tensors of another format than channels-last, which there is for pictures
    alone, into an order of their own, and those of float64 write out the windows of the whole batch.
    """

    NOTHING = "nothing"
    ALL_BUT_PICTURES = "tensors but pictures in channels-last"
    ALL = "tensors"
    WINDOWS = "windows"


def copies(dtype: torch.dtype, channels_last: bool, on_cpu: bool = True) -> Copies:
    """What convolutions copy that run so."""
    if not on_cpu:
        return Copies.NOTHING
    if dtype == torch.float64:
        return Copies.WINDOWS
    return Copies.ALL_BUT_PICTURES if channels_last else Copies.ALL


def peak_bytes(explanation: ExplanationGraph, copied: Copies) -> Callable[[int, int], int]:
    """The most bytes alive at once, as a function of the numbers of images and of targets.

    Counted are all values between the inputs and the results, each from the call that computes it to the last one that
    reads it or a view of it; flattening several targets is counted as a view. Copies that a convolution makes, of its
    weight and what ``copied`` says, are counted; images and weights themselves are not.
    """
    explanation.infer_types()
    moments = _undominated(_moments(explanation, copied))
    return lambda images, targets: max(
        (fixed + per_image * images + per_pair * images * targets for fixed, per_image, per_pair in moments), default=0
    )


def peak_expression(explanation: ExplanationGraph, copied: Copies) -> sympy.Expr:
    """The same bytes as an expression in the numbers of images N and of targets K: the largest of a few sums."""
    explanation.infer_types()
    return _largest(_moments(explanation, copied))


def _undominated(moments: set[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Those that may be the largest for some numbers of images and targets."""

    def growth(moment: tuple[int, int, int]) -> tuple[int, int, int]:
        """Bytes for one image and target, what another image adds to that, and another target."""
        return sum(moment), moment[1] + moment[2], moment[2]

    kept: list[tuple[int, int, int]] = []
    for moment in sorted(moments, key=growth, reverse=True):
        if not any(all(a >= b for a, b in zip(growth(other), growth(moment), strict=True)) for other in kept):
            kept.append(moment)
    return kept


def largest_per_pair(explanation: ExplanationGraph) -> int:
    """Bytes of the largest tensor that every (image, target) pair adds to."""
    explanation.infer_types()
    return max(_bytes(node.meta["type"])[2] for node in explanation.graph.nodes if node.op == "call_function")


def owners(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """For every node, the one whose memory its value lies in: itself, or what it is a view of or written into."""
    owner: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        shares = node.op == "call_function" and (node.target in VIEWS or _aliases(node)) and node.all_input_nodes
        owner[node] = owner[node.args[0]] if shares else node
    return owner


def _aliases(node: fx.Node) -> bool:
    """Whether the operation says that its result may lie in the memory of what it reads: views, and calls in place."""
    is_operation = isinstance(node.target, torch._ops.OpOverload)
    return is_operation and any(result.alias_info is not None for result in node.target._schema.returns)


def live_expressions(graph: fx.Graph, copied: Copies) -> dict[str, sympy.Expr]:
    """The bytes alive while each call runs, by name, as expressions: of the same values, its own copies included.

    Args:
        graph: a graph whose types are inferred.
        copied: what convolutions copy.
    """
    return {node.name: _expression(moment) for node, moment in _timeline(graph, copied)}


def largest(live: Iterable[sympy.Expr]) -> sympy.Expr:
    """The largest of such expressions, for all numbers of images and of targets."""
    return _largest({_coefficients(expression) for expression in live})


def _largest(moments: set[tuple[int, int, int]]) -> sympy.Expr:
    terms = [_expression(moment) for moment in _undominated(moments)]
    return sympy.Max(*terms, evaluate=False) if len(terms) > 1 else terms[0] if terms else sympy.S.Zero


def _moments(explanation: ExplanationGraph, copied: Copies) -> set[tuple[int, int, int]]:
    return {moment for _, moment in _timeline(explanation.graph, copied)}


@functools.lru_cache(4096)
def _expression(moment: tuple[int, int, int]) -> sympy.Expr:
    fixed, per_image, per_pair = moment
    return fixed + per_image * BATCH + per_pair * BATCH * TARGETS


@functools.lru_cache(4096)
def _coefficients(expression: sympy.Expr) -> tuple[int, int, int]:
    of = expression.as_coefficients_dict()
    return tuple(int(of[term]) for term in (sympy.S.One, BATCH, BATCH * TARGETS))


def _timeline(graph: fx.Graph, copied: Copies) -> list[tuple[fx.Node, tuple[int, int, int]]]:
    """Bytes alive while each call runs: independent of the batch, per image, per (image, target) pair."""
    nodes, owner = list(graph.nodes), owners(graph)
    last_read = {owner[source]: node for node in nodes for source in node.all_input_nodes}
    freed: dict[fx.Node, list[fx.Node]] = {}
    for node, reader in last_read.items():
        freed.setdefault(reader, []).append(node)
    alive, moments = (0, 0, 0), []
    for node in nodes:
        if node.op == "call_function":
            if owner[node] is node:
                alive = _plus(alive, _bytes(node.meta["type"]), 1)
            moments.append((node, _plus(alive, _workspace(node, copied), 1)))
        for dead in freed.get(node, ()):
            if dead.op == "call_function":
                alive = _plus(alive, _bytes(dead.meta["type"]), -1)
    return moments


def _workspace(node: fx.Node, copied: Copies) -> tuple[int, int, int]:
    """Bytes that a kernel takes for itself: convolutions copy their weight into an order of their own, and more."""
    if node.target is aten._adaptive_avg_pool2d_backward.default and node.args[1].target is aten.permute.default:
        return _bytes(node.meta["type"])  # in channels-last, of which the pooled tensor then is
    if node.target not in (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS):
        return 0, 0, 0
    read, weight, result = (each.meta["type"] for each in (*node.args[:2], node))
    own, larger = _bytes(weight), max(_bytes(read), _bytes(result), key=sum)
    pictures = read.rank == _PICTURES
    if copied is Copies.NOTHING or (copied is Copies.ALL_BUT_PICTURES and pictures):
        return own
    if copied is Copies.WINDOWS:
        larger = _windows(node, read, weight, result, larger)
    return _plus(own, larger, 1)


_PICTURES = 4  # dimensions of (N, C, H, W)


def _windows(
    node: fx.Node, read: TensorType, weight: TensorType, result: TensorType, larger: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Bytes of the windows of all positions, of one group of channels at a time; or of copies of the groups."""
    forward, groups = node.target in CONVOLUTIONS, node.args[6]
    volumes = read.rank > _PICTURES
    kernel = math.prod(weight.shape[2:])
    if kernel == 1 or (volumes and not forward):  # the latter one image after the other
        return larger if groups > 1 or volumes else (0, 0, 0)
    of = result if forward else read  # which has the positions
    channels = read.shape[1] if forward else result.shape[1]
    entries = kernel * (channels if volumes else channels // groups)
    windows = tuple(size * entries // of.shape[1] for size in _bytes(of))
    return max(windows, larger, key=sum) if groups > 1 else windows


@functools.lru_cache(4096)
def _bytes(kind: Any) -> tuple[int, int, int]:
    """Bytes of a value: independent of the batch, per image, per pair."""
    if isinstance(kind, tuple):
        several = [_bytes(item) for item in kind]
        return tuple(map(sum, zip(*several, strict=True))) if several else (0, 0, 0)
    if not isinstance(kind, TensorType):
        return 0, 0, 0
    size = sympy.sympify(kind.entries)
    count = int(size.subs({BATCH: 1, TARGETS: 1})) * kind.dtype.itemsize
    if size.has(TARGETS):
        return 0, 0, count
    return (0, count, 0) if size.has(BATCH) else (count, 0, 0)


def _plus(a: tuple[int, int, int], b: tuple[int, int, int], sign: int) -> tuple[int, int, int]:
    return tuple(x + sign * y for x, y in zip(a, b, strict=True))
