"""Detours: movements after which every entry is where it was, and joined parts of one value."""

from __future__ import annotations

import math

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import become, give_way, kind_of
from agf_fx.frontend.rewrites.values import is_call, reshaped
from agf_fx.ir.types import BATCH, TensorType
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten

_MOVES = (aten.reshape.default, aten.permute.default)
_IMAGES = 3  # a batch to try the way with


def straighten(node: fx.Node) -> None:
    """Let the readers of a value that came back to its place read it from there, as from behind an einsum."""
    if is_call(node, aten.select.int):
        _select_the_only(node)
    elif is_call(node, aten.cat.default):
        _rejoin(node)
    if is_call(node, *_MOVES):
        _come_back(node)


def _select_the_only(node: fx.Node) -> None:
    """The only entry along a dimension, which is then lost."""
    x, dim, _ = node.args
    if kind_of(x).shape[dim] == 1 and depends_on_images(x):
        become(node, aten.reshape.default, x, kind_of(node).free_batch)


def _come_back(node: fx.Node) -> None:
    chain: list[fx.Node] = []
    x = node
    while is_call(x, *_MOVES) and depends_on_images(x) and (x is node or len(x.users) == 1):
        chain.insert(0, x)
        x = x.args[0]
        if kind_of(x) == kind_of(node) and _stays(x, chain):
            return give_way(node, x)
    return None


def _stays(x: fx.Node, chain: list[fx.Node]) -> bool:
    shape = _tried(kind_of(x))
    places = torch.arange(math.prod(shape)).reshape(shape)
    moved = places
    for step in chain:
        moved = step.target(moved, step.args[1])
    return torch.equal(places, moved)


def _tried(kind: TensorType) -> list[int]:
    return [size if isinstance(size, int) else int(size.subs(BATCH, _IMAGES)) for size in kind.shape]


def _rejoin(node: fx.Node) -> None:
    """All parts of a value, joined in order, as the value."""
    items, along = node.args
    parts = [part_of(item) for item in items]
    if any(part is None for part in parts):
        return
    (x, dim, end), ahead = parts[0][:3], math.prod(kind_of(node).shape[:along])
    if end != 0 or math.prod(kind_of(x).shape[:dim]) != ahead:
        return
    for source, other, start, stop in parts:
        if source is not x or other != dim or start != end:
            return
        end = stop
    if end == kind_of(x).shape[dim]:
        give_way(node, reshaped(node, x, kind_of(node).free_batch))


def part_of(value: fx.Node) -> tuple[fx.Node, int, int, int] | None:
    """(x, dim, start, end) where ``value`` is x from start to end along a dimension, perhaps reshaped."""
    while is_call(value, aten.reshape.default):
        value = value.args[0]
    if is_call(value, aten.select.int) and depends_on_images(value):
        x, dim, index = value.args
        return x, dim, index, index + 1
    if is_call(value, aten.slice.Tensor) and value.args[4] == 1:
        return value.args[:4]
    return None
