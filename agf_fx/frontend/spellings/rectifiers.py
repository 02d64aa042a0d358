"""ReLU and its relatives by other names: choices and products by the sign of x, (x + |x|) / 2, clamps, quotients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import become, give_way, insert
from agf_fx.frontend.rewrites.values import CONVERSIONS, factor_of, is_call, number_of, same_shape, times
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten

_POSITIVE = (aten.gt.Scalar, aten.ge.Scalar, aten.gt.Tensor, aten.ge.Tensor)
_NEGATIVE = (aten.lt.Scalar, aten.le.Scalar, aten.lt.Tensor, aten.le.Tensor)
_CLAMPS = (aten.relu.default, aten.clamp.default, aten.hardtanh.default)
_NOT = (aten.logical_not.default, aten.bitwise_not.default)


def find_rectifiers(node: fx.Node) -> None:
    """Write max(x, 0) as a ReLU, two clamps as one, x or c · x by sign as a leaky ReLU, 1 / (1 + e⁻ˣ) as a sigmoid."""
    for form in (_masked, _chosen, _filled, _with_absolute, _remainder, _clamped):
        x = form(node)
        if x is not None and same_shape(node, x):
            rectified = insert(node, aten.relu.default, x)
            give_way(node, rectified)
            return _of_a_clamp(rectified)
    _leaky(node)
    _logistic(node)
    _of_a_clamp(node)
    return None


def _masked(node: fx.Node) -> fx.Node | None:
    """x · [x > 0]."""
    if not is_call(node, aten.mul.Tensor):
        return None
    x, mask = node.args
    return x if _sign(mask, x) == 1 else None


def _chosen(node: fx.Node) -> fx.Node | None:
    """x where x > 0, else 0."""
    if not is_call(node, aten.where.self):
        return None
    mask, first, second = node.args
    if number_of(second) == 0 and _sign(mask, first) == 1:
        return first
    return second if number_of(first) == 0 and _sign(mask, second) == -1 else None


def _filled(node: fx.Node) -> fx.Node | None:
    """x, filled with 0 where x < 0."""
    if not is_call(node, aten.masked_fill.Scalar) or node.args[2] != 0:
        return None
    return node.args[0] if _sign(node.args[1], node.args[0]) == -1 else None


def _remainder(node: fx.Node) -> fx.Node | None:
    """x - min(x, 0), and -min(-x, 0)."""
    if is_call(node, aten.sub.Tensor):
        x, least = node.args
    elif is_call(node, aten.neg.default):
        least, x = node.args[0], None
    else:
        return None
    if not is_call(least, aten.clamp.default) or least.args[1] is not None or number_of(least.args[2]) != 0:
        return None
    inner = least.args[0]
    if x is None:
        return inner.args[0] if is_call(inner, aten.neg.default) else None
    return x if inner is x else None


def _leaky(node: fx.Node) -> None:
    """x where x > 0, else c · x."""
    if is_call(node, aten.where.self):
        mask, first, second = node.args
        for x, scaled, sign in ((first, second, 1), (second, first, -1)):
            found = factor_of(scaled)
            if found and found[0] is x and _sign(mask, x) == sign and same_shape(node, x):
                return become(node, aten.leaky_relu.default, x, found[1])
    return None


def _logistic(node: fx.Node) -> None:
    """1 / (1 + exp(-x)), and exp(x) / (1 + exp(x))."""
    if is_call(node, aten.reciprocal.default) and is_call(_one_more(node.args[0]), aten.exp.default):
        found = factor_of(_one_more(node.args[0]).args[0])
        if found and found[1] == -1:
            become(node, aten.sigmoid.default, found[0])
        return
    quotient = is_call(node, aten.div.Tensor) and is_call(node.args[0], aten.exp.default)
    if quotient and _one_more(node.args[1]) is node.args[0]:
        become(node, aten.sigmoid.default, node.args[0].args[0])


def _one_more(value: Any) -> Any:
    """y, where ``value`` is y + 1."""
    return value.args[0] if is_call(value, aten.add.Tensor) and number_of(value.args[1]) == 1 else None


def _with_absolute(node: fx.Node) -> fx.Node | None:
    """x + |x|, which is twice a ReLU; the factor is written behind it."""
    if not is_call(node, aten.add.Tensor):
        return None
    for x, other in (node.args, node.args[::-1]):
        if is_call(other, aten.abs.default) and other.args[0] is x and depends_on_images(x):
            give_way(node, times(node, insert(node, aten.relu.default, x), 2))
            return None
    return None


def _clamped(node: fx.Node) -> fx.Node | None:
    """A clamp to [0, ∞), or a leaky ReLU without a slope."""
    if is_call(node, aten.leaky_relu.default):
        return node.args[0] if node.args[1] == 0 else None
    if is_call(node, aten.clamp.default, aten.hardtanh.default):
        x, low, high = node.args
        if number_of(low) == 0 and (high is None or number_of(high) == math.inf):
            return x
    return None


def _sign(mask: Any, x: Any) -> int:
    """1 where ``mask`` says that x > 0, -1 where it says that x < 0, on either of which 0 may count; else 0.

    A mask may be the numbers 1 and 0, chosen by a mask, converted from one, or 1 less such numbers.
    """
    if is_call(mask, *CONVERSIONS):
        return _sign(mask.args[0], x)
    if is_call(mask, aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar):
        chosen = number_of(mask.args[1]), number_of(mask.args[2])
        return {(1, 0): 1, (0, 1): -1}.get(chosen, 0) * _sign(mask.args[0], x)
    if is_call(mask, aten.add.Tensor) and number_of(mask.args[1]) == 1 and is_call(mask.args[0], aten.mul.Tensor):
        opposite, factor = mask.args[0].args
        return -_sign(opposite, x) if number_of(factor) == -1 else 0
    if is_call(mask, *_NOT):
        return -_sign(mask.args[0], x)
    if is_call(mask, *_POSITIVE, *_NEGATIVE) and mask.args[0] is x and number_of(mask.args[1]) == 0:
        return 1 if mask.target in _POSITIVE else -1
    if is_call(mask, *_POSITIVE, *_NEGATIVE) and mask.args[1] is x and number_of(mask.args[0]) == 0:
        return -1 if mask.target in _POSITIVE else 1
    return 0


def _of_a_clamp(node: fx.Node) -> None:
    """Bounds in two calls as one call, where the second leaves something of what the first lets through."""
    if not node.users or not is_call(node, *_CLAMPS) or not is_call(node.args[0], *_CLAMPS):
        return
    inner = node.args[0]
    outer, first = _bounds(node), _bounds(inner)
    if outer is None or first is None:
        return
    lower, upper = max(outer[0], first[0]), min(outer[1], first[1])
    if (lower, upper) == (0, math.inf):
        become(node, aten.relu.default, inner.args[0])
    elif lower < upper:
        bounds = (bound if math.isfinite(bound) else None for bound in (lower, upper))
        become(node, aten.clamp.default, inner.args[0], *bounds)


def _bounds(node: Any) -> tuple[float, float] | None:
    """The least and the largest value that a clamp or a ReLU has."""
    if is_call(node, aten.relu.default):
        return 0, math.inf
    low, high = (None if bound is None else number_of(bound) for bound in node.args[1:])
    if any(bound is not None and number is None for bound, number in zip(node.args[1:], (low, high), strict=True)):
        return None
    return -math.inf if low is None else low, math.inf if high is None else high
