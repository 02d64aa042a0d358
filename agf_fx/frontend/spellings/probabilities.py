"""Softmax by other names: exponentials over their sum, and the exponential of a log-softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import give_way, insert
from agf_fx.frontend.rewrites.values import is_call
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten


def find_softmax(node: fx.Node) -> None:
    """e^x / Σ e^x, with or without the largest taken from x first, and e^log softmax(x), as a softmax."""
    if is_call(node, aten.div.Tensor):
        _quotient(node)
    elif is_call(node, aten.exp.default) and is_call(node.args[0], aten.log_softmax.int):
        x, dim, *_ = node.args[0].args
        give_way(node, insert(node, aten.softmax.int, x, dim, None))


def _quotient(node: fx.Node) -> None:
    exponentials, total = node.args
    total = _unrepeated(total)
    if not (is_call(exponentials, aten.exp.default) and is_call(total, aten.sum.dim_IntList)):
        return
    summed, dims, keepdim = total.args
    if len(dims) != 1 or not keepdim or not _same(summed, exponentials):
        return
    x = exponentials.args[0]
    if is_call(x, aten.sub.Tensor) and depends_on_images(x.args[1]):
        largest = _unrepeated(x.args[1])
        if is_call(largest, aten.amax.default) and largest.args[0] is x.args[0] and largest.args[1] == dims:
            x = x.args[0]
    if depends_on_images(x):
        give_way(node, insert(node, aten.softmax.int, x, dims[0], None))


def _unrepeated(value: Any) -> Any:
    return value.args[0] if is_call(value, aten.expand.default) else value


def _same(first: fx.Node, second: fx.Node) -> bool:
    """Whether two calls compute one value."""
    return first is second or (first.target is second.target and first.args == second.args)
