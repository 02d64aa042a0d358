"""Functions of every entry, by the few that the vocabulary has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from agf_fx.errors import CaptureError
from agf_fx.frontend.rewrites.arithmetic import repeat_signals, whole
from agf_fx.frontend.rewrites.editing import become, broadcast, erase, give_way, insert, kind_of, like, no_signal
from agf_fx.frontend.rewrites.values import number_of
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten

# Constants of SELU (Klambauer et al. 2017), as PyTorch has them.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _clamp(node: fx.Node) -> None:
    """One-sided clamps as clamps; without a bound below or above 0, a ReLU."""
    x, *bounds = node.args
    if node.target is aten.clamp_min.default:
        bounds = [bounds[0], None]
    elif node.target is aten.clamp_max.default:
        bounds = [None, bounds[0]]
    if bounds[0] == 0 and bounds[1] is None:
        become(node, aten.relu.default, x)
    else:
        become(node, aten.clamp.default, x, *bounds)


def _selu(node: fx.Node) -> None:
    become(node, aten.elu.default, node.args[0], _SELU_ALPHA, _SELU_SCALE, 1)


def _celu(node: fx.Node) -> None:
    x, alpha = node.args
    become(node, aten.elu.default, x, alpha, 1, 1 / alpha)


def _relu6(node: fx.Node) -> None:
    become(node, aten.hardtanh.default, node.args[0], 0, 6)


def _threshold(node: fx.Node) -> None:
    x, threshold, value = node.args
    if threshold == value == 0:
        become(node, aten.relu.default, x)
    else:
        below = insert(node, aten.le.Scalar, x, threshold)
        become(node, aten.masked_fill.Scalar, x, below, value)


def _randomised_leaky_relu(node: fx.Node) -> None:
    """In evaluation the slope is the mean of its bounds."""
    x, low, high, train, *_ = node.args
    if not train:
        become(node, aten.leaky_relu.default, x, (low + high) / 2)


def _log_sigmoid(node: fx.Node) -> None:
    """log σ(x) = -softplus(-x), to the last bit of float64: PyTorch's softplus(x) is x above the threshold."""
    softplus = insert(node, aten.softplus.default, insert(node, aten.neg.default, node.args[0]), 1, 50)
    become(node, aten.neg.default, softplus)


def _gated_linear_unit(node: fx.Node) -> None:
    """a ⊙ σ(b), a and b the halves of x."""
    x, dim = node.args
    dim %= kind_of(x).rank
    half = kind_of(node).shape[dim]
    a, b = (insert(node, aten.slice.Tensor, x, dim, start, start + half, 1) for start in (0, half))
    become(node, aten.mul.Tensor, a, insert(node, aten.sigmoid.default, b))


def _square(node: fx.Node) -> None:
    become(node, aten.mul.Tensor, node.args[0], node.args[0])


def _power(node: fx.Node) -> None:
    """Small whole powers as products, whose relevance is known."""
    x, exponent = node.args
    if not depends_on_images(x):
        return
    if exponent == 1:
        erase(node)
    elif exponent in (2, 3, 4):
        square = insert(node, aten.mul.Tensor, x, x)
        factors = {2: (x, x), 3: (square, x), 4: (square, square)}
        become(node, aten.mul.Tensor, *factors[exponent])


def _exponential(node: fx.Node) -> None:
    """cˣ = exp(x log c)."""
    base, x = node.args if node.target is aten.pow.Scalar else (2, *node.args)
    if depends_on_images(x) and base > 0:
        become(node, aten.exp.default, insert(node, aten.mul.Tensor, x, math.log(base)))


def _power_of_signals(node: fx.Node) -> None:
    """With one number throughout as the exponent or the base, a function of single entries."""
    base, exponent = node.args
    if not node.meta["depends_on_images"]:
        return
    if number_of(exponent) is not None and kind_of(base) == kind_of(node):
        become(node, aten.pow.Tensor_Scalar, base, number_of(exponent))
        _power(node)
    elif (number_of(base) or 0) > 0 and kind_of(exponent) == kind_of(node):
        become(node, aten.pow.Scalar, number_of(base), exponent)
        _exponential(node)
    else:
        repeat_signals(node)


def _normal_distribution(node: fx.Node) -> None:
    """Φ(x) = erfc(-x / √2) / 2, which keeps its digits where it is small."""
    complement = insert(node, aten.erfc.default, insert(node, aten.mul.Tensor, node.args[0], -math.sqrt(0.5)))
    become(node, aten.mul.Tensor, complement, 0.5)


def _finite(node: fx.Node) -> None:
    """Numbers in the place of nan and of either infinity."""
    x, missing, largest, smallest = node.args
    if not node.meta["depends_on_images"]:
        return
    bounds = torch.finfo(kind_of(node).dtype)
    numbers = (missing or 0.0, bounds.max if largest is None else largest, bounds.min if smallest is None else smallest)
    masks = (
        insert(node, aten.ne.Tensor, x, x),
        insert(node, aten.eq.Scalar, x, math.inf),
        insert(node, aten.eq.Scalar, x, -math.inf),
    )
    value = x
    for mask, number in zip(masks, numbers, strict=True):
        value = insert(node, aten.masked_fill.Scalar, value, mask, number)
    give_way(node, value)


def _with_sign(node: fx.Node) -> None:
    """|x| with the sign of another value, which is a step: its zeros have signs as well."""
    x, other = node.args
    if not node.meta["depends_on_images"]:
        return
    if not isinstance(other, fx.Node):
        size = insert(node, aten.abs.default, x)
        return give_way(node, insert(node, aten.neg.default, size) if math.copysign(1, other) < 0 else size)
    size = insert(node, aten.abs.default, whole(node, x))
    ones = insert(node, aten.ones_like.default, size)
    signs = insert(node, aten.masked_fill.Scalar, ones, insert(node, aten.signbit.default, other), -1.0)
    become(node, aten.mul.Tensor, size, signs)
    return None if depends_on_images(x) else no_signal(node)


def _unit_step(node: fx.Node) -> None:
    """0 below 0 and 1 above it; at 0 a constant.

    Raises:
        CaptureError: no constant, of which PyTorch knows no derivative either.
    """
    if depends_on_images(node.args[1]):
        raise CaptureError(
            f"the model takes heaviside's value at 0 from the images ({node.meta['source'] or 'forward()'}), which has "
            "no derivative. Make it a constant."
        )


def _clamp_by_tensors(node: fx.Node) -> None:
    """The larger of x and the lower bound, and the smaller of that and the upper one."""
    x, *bounds = node.args
    if not node.meta["depends_on_images"]:
        return
    if node.target is aten.clamp_max.Tensor:
        bounds = [None, *bounds]
    functions = zip((aten.maximum.default, aten.minimum.default), bounds, strict=False)
    calls = [(function, bound) for function, bound in functions if bound is not None]
    made = []
    for function, bound in calls:
        x = insert(node, function, x, bound)
        made.append(x)
    give_way(node, x)
    for call in made:
        ELEMENTWISE[call.target](call)


def _extreme(sign: int, of_numbers: bool = False) -> Callable[[fx.Node], None]:
    """The larger (``sign`` 1) or smaller (-1) of two values, by the maximum along a new dimension; or a clamp.

    ``of_numbers``: where one value is nan, the other.
    """

    def without_nan(node: fx.Node, x: fx.Node, other: fx.Node) -> fx.Node:
        return insert(node, aten.where.self, insert(node, aten.ne.Tensor, x, x), other, x)

    def rewrite(node: fx.Node) -> None:
        kind = kind_of(node)
        if not node.meta["depends_on_images"]:
            return
        bounds = [number_of(value) for value in node.args]
        numbers = [bound for bound in bounds if bound is not None]
        x = node.args[0] if bounds[0] is None else node.args[1]
        if numbers and kind_of(x) == kind:
            if of_numbers:
                x = insert(node, aten.masked_fill.Scalar, x, insert(node, aten.ne.Tensor, x, x), numbers[0])
            become(node, aten.clamp.default, x, *((*numbers, None) if sign == 1 else (None, *numbers)))
            return _clamp(node)
        if any(kind_of(value).dtype != kind.dtype for value in node.args):
            return
        x = broadcast(node, next(filter(depends_on_images, node.args)), kind.free_batch)
        values = [like(node, value, x) for value in node.args]
        if of_numbers:
            values = [without_nan(node, *values), without_nan(node, *values[::-1])]
        values = values if sign == 1 else [insert(node, aten.neg.default, value) for value in values]
        rows = [insert(node, aten.reshape.default, value, [*kind.free_batch, 1]) for value in values]
        largest = insert(node, aten.amax.default, insert(node, aten.cat.default, rows, kind.rank), [kind.rank], False)
        give_way(node, largest if sign == 1 else insert(node, aten.neg.default, largest))

    return rewrite


def _conversion(node: fx.Node) -> None:
    """To another floating dtype, or to the one that it has already."""
    before, after = kind_of(node.args[0]).dtype, kind_of(node).dtype
    if before is after:
        erase(node)
    elif before.is_floating_point and after.is_floating_point:
        become(node, aten.to.dtype, node.args[0], after)


def _named(target: Callable[..., Any]) -> Callable[[fx.Node], None]:
    """The same operation under another name."""

    def rewrite(node: fx.Node) -> None:
        node.target = target

    return rewrite


ELEMENTWISE: dict[Callable[..., Any], Callable[[fx.Node], None]] = {
    aten.clamp.default: _clamp,
    aten.clip.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: _clamp,
    aten.selu.default: _selu,
    aten.celu.default: _celu,
    aten.relu6.default: _relu6,
    aten.threshold.default: _threshold,
    aten.rrelu.default: _randomised_leaky_relu,
    aten.log_sigmoid.default: _log_sigmoid,
    aten.glu.default: _gated_linear_unit,
    aten.square.default: _square,
    aten.pow.Tensor_Scalar: _power,
    aten.pow.Scalar: _exponential,
    aten.exp2.default: _exponential,
    aten.maximum.default: _extreme(1),
    aten.max.other: _extreme(1),
    aten.minimum.default: _extreme(-1),
    aten.min.other: _extreme(-1),
    aten.fmax.default: _extreme(1, of_numbers=True),
    aten.fmin.default: _extreme(-1, of_numbers=True),
    **dict.fromkeys((aten.clamp.Tensor, aten.clamp_min.Tensor, aten.clamp_max.Tensor), _clamp_by_tensors),
    aten.pow.Tensor_Tensor: _power_of_signals,
    aten.special_ndtr.default: _normal_distribution,
    aten.nan_to_num.default: _finite,
    **dict.fromkeys((aten.copysign.Tensor, aten.copysign.Scalar), _with_sign),
    aten.heaviside.default: _unit_step,
    aten.to.dtype: _conversion,
    aten._to_copy.default: _conversion,
    aten.type_as.default: _conversion,
    aten.detach.default: erase,
    aten.negative.default: _named(aten.neg.default),
    aten.absolute.default: _named(aten.abs.default),
    aten.special_expit.default: _named(aten.sigmoid.default),
}
