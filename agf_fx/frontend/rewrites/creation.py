"""Tensors that the forward pass makes, one for every image: a constant, repeated."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Number

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import become, constant, kind_of

aten = torch.ops.aten


def _filled(node: fx.Node, value: object) -> None:
    """(N, …) full of ``value``: device and dtype are those of now, and no default of a later moment."""
    kind, device = kind_of(node), node.kwargs.get("device")
    if kind.batch_dim is None or not isinstance(value, Number):
        return
    shape = [size if isinstance(size, int) else 1 for size in kind.shape]
    one = torch.full(shape, value, dtype=kind.dtype, device=device or "cpu")
    become(node, aten.expand.default, constant(node, one), list(node.args[0]))


CREATION: dict[Callable[..., object], Callable[[fx.Node], None]] = {
    aten.zeros.default: lambda node: _filled(node, 0),
    aten.empty.memory_format: lambda node: _filled(node, 0),
    aten.ones.default: lambda node: _filled(node, 1),
    aten.full.default: lambda node: _filled(node, node.args[1]),
}
