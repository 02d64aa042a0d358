"""Functions of every entry, by the few that the vocabulary has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from agf_fx.frontend.rewrites.arithmetic import ARITHMETIC, new, scaled
from agf_fx.frontend.rewrites.editing import (
    become,
    broadcast,
    constant,
    erase,
    give_way,
    insert,
    kind_of,
    like,
    value_of,
)
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


def _extreme(sign: int) -> Callable[[fx.Node], None]:
    """The larger (``sign`` 1) or smaller (-1) of two values, by the maximum along a new dimension; or a clamp."""

    def rewrite(node: fx.Node) -> None:
        kind = kind_of(node)
        if not node.meta["depends_on_images"]:
            return
        bounds = [number_of(value) for value in node.args]
        numbers = [bound for bound in bounds if bound is not None]
        x = node.args[0] if bounds[0] is None else node.args[1]
        if numbers and kind_of(x) == kind:
            become(node, aten.clamp.default, x, *((*numbers, None) if sign == 1 else (None, *numbers)))
            return _clamp(node)
        if any(kind_of(value).dtype != kind.dtype for value in node.args):
            return
        x = broadcast(node, next(filter(depends_on_images, node.args)), kind.free_batch)
        values = [like(node, value, x) for value in node.args]
        values = values if sign == 1 else [insert(node, aten.neg.default, value) for value in values]
        rows = [insert(node, aten.reshape.default, value, [*kind.free_batch, 1]) for value in values]
        largest = insert(node, aten.amax.default, insert(node, aten.cat.default, rows, kind.rank), [kind.rank], False)
        give_way(node, largest if sign == 1 else insert(node, aten.neg.default, largest))

    return rewrite


def _scaled_logarithm(base: float) -> Callable[[fx.Node], None]:
    """log_b x = log x / log b."""

    def rewrite(node: fx.Node) -> None:
        become(node, aten.div.Tensor, insert(node, aten.log.default, node.args[0]), math.log(base))

    return rewrite


def _degrees(node: fx.Node) -> None:
    factor = math.pi / 180 if node.target is aten.deg2rad.default else 180 / math.pi
    become(node, aten.mul.Tensor, node.args[0], factor)


def _rounded(node: fx.Node) -> None:
    """Rounded to decimals, as PyTorch does it: by a power of ten."""
    decimals = node.kwargs["decimals"]
    inner, outer = (aten.mul.Tensor, aten.div.Tensor) if decimals >= 0 else (aten.div.Tensor, aten.mul.Tensor)
    scale = 10.0 ** abs(decimals)
    become(node, outer, insert(node, aten.round.default, insert(node, inner, node.args[0], scale)), scale)


def _numbers_alone(node: fx.Node) -> None:
    """Numbers in the place of what is none: of entries that are NaN, or infinite."""
    x, *given = node.args
    most = torch.finfo(kind_of(x).dtype).max
    values = [default if value is None else value for value, default in zip(given, (0.0, most, -most), strict=False)]
    values += [0.0, most, -most][len(values) :]
    for bad, value in zip((None, math.inf, -math.inf), values, strict=True):
        where = insert(node, aten.ne.Tensor, x, x) if bad is None else insert(node, aten.eq.Scalar, x, bad)
        x = insert(node, aten.masked_fill.Scalar, x, where, value)
    give_way(node, x)


def _log_odds(node: fx.Node) -> None:
    """With a margin, of a clamped number."""
    x, *margin = node.args
    if margin and margin[0] is not None:
        x = insert(node, aten.clamp.default, x, margin[0], 1 - margin[0])
    become(node, aten.logit.default, x)


def _normal_distribution(node: fx.Node) -> None:
    """Φ(x) = erfc(-x / √2) / 2."""
    x = insert(node, aten.mul.Tensor, node.args[0], -math.sqrt(0.5))
    become(node, aten.mul.Tensor, insert(node, aten.erfc.default, x), 0.5)


def _float_power(node: fx.Node) -> None:
    """A power in float64."""
    x, exponent = (
        insert(node, aten.to.dtype, value, torch.float64)
        if isinstance(value, fx.Node) and kind_of(value).dtype is not torch.float64
        else value
        for value in node.args
    )
    if isinstance(exponent, fx.Node):
        become(node, aten.pow.Tensor_Tensor, x, exponent)
        return _tensor_power(node)
    become(node, aten.pow.Tensor_Scalar, x, exponent)
    return _power(node)


def _tensor_power(node: fx.Node) -> None:
    """A signal to a constant power; a power that is a number is one, and cˣ = exp(x log c) where c > 0."""
    x, exponent = node.args
    number = number_of(exponent)
    if number is not None and depends_on_images(x):
        become(node, aten.pow.Tensor_Scalar, x, number)
        return _power(node)
    base = value_of(x)
    if depends_on_images(exponent) and base is not None and bool((base > 0).all()):
        logarithm = constant(node, torch.log(base.to(kind_of(exponent).dtype)))
        become(node, aten.exp.default, insert(node, aten.mul.Tensor, exponent, logarithm))
    return None


def _product_with_logarithm(node: fx.Node) -> None:
    """x log y, or x log(1 + y): 0 where x is 0 and there is no logarithm, and then without a gradient."""
    x, y = node.args
    log, least = (aten.log1p.default, -1) if node.target is aten.special_xlog1py.default else (aten.log.default, 0)
    if not all(isinstance(value, fx.Node) for value in (x, y)):
        return None
    safe = insert(node, aten.masked_fill.Scalar, y, insert(node, aten.le.Scalar, y, least), least + 1)
    nothing = insert(node, aten.eq.Scalar, x, 0)
    logarithm = insert(node, log, insert(node, aten.where.self, nothing, safe, y))
    become(node, aten.mul.Tensor, x, logarithm)
    return ARITHMETIC[aten.mul.Tensor](node)


def _length(node: fx.Node) -> None:
    """√(a² + b²) of two signals: the norm along a new dimension."""
    kind = kind_of(node)
    if not all(depends_on_images(value) for value in node.args):
        squares = [new(node, aten.mul.Tensor, value, value) for value in node.args]
        become(node, aten.sqrt.default, new(node, aten.add.Tensor, *squares))
        return
    rows = _side_by_side(node, list(node.args))
    become(node, aten.linalg_vector_norm.default, rows, 2, [kind.rank], False)


def _with_sign(node: fx.Node) -> None:
    """|a| where b is not negative, else -|a|."""
    a, b = node.args
    if not depends_on_images(a):
        return
    size = insert(node, aten.abs.default, a)
    become(node, aten.where.self, insert(node, aten.lt.Scalar, b, 0), insert(node, aten.neg.default, size), size)


def _soft_maximum(node: fx.Node) -> None:
    """log(eᵃ + eᵇ) = max(a, b) + log(1 + e^-|a - b|); of a signal and a constant c, softplus(x - c) + c."""
    a, b = node.args
    unit = math.log(2) if node.target is aten.logaddexp2.default else 1
    if not (depends_on_images(a) and depends_on_images(b)):
        x, c = (a, b) if depends_on_images(a) else (b, a)
        x, c = (scaled(node, value, unit) for value in (x, c))
        soft = insert(node, aten.softplus.default, new(node, aten.sub.Tensor, x, c), 1, 50)
        become(node, aten.div.Tensor, new(node, aten.add.Tensor, soft, c), unit)
        return
    apart = insert(node, aten.abs.default, new(node, aten.sub.Tensor, a, b))
    beside = insert(node, aten.exp.default, scaled(node, apart, -unit))
    largest = insert(node, aten.amax.default, _side_by_side(node, [a, b]), [kind_of(node).rank], False)
    rest = insert(node, aten.div.Tensor, insert(node, aten.log1p.default, beside), unit)
    become(node, aten.add.Tensor, largest, rest)


def _side_by_side(node: fx.Node, values: list[fx.Node]) -> fx.Node:
    """Signals of the result's shape along a new last dimension."""
    kind = kind_of(node)
    whole = [broadcast(node, x, kind.free_batch) for x in values]
    rows = [insert(node, aten.reshape.default, x, [*kind.free_batch, 1]) for x in whole]
    return insert(node, aten.cat.default, rows, kind.rank)


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
    aten.fmax.default: _extreme(1),
    aten.fmin.default: _extreme(-1),
    aten.minimum.default: _extreme(-1),
    aten.min.other: _extreme(-1),
    aten.to.dtype: _conversion,
    aten._to_copy.default: _conversion,
    aten.type_as.default: _conversion,
    aten.detach.default: erase,
    aten.negative.default: _named(aten.neg.default),
    aten.absolute.default: _named(aten.abs.default),
    aten.special_expit.default: _named(aten.sigmoid.default),
    aten.special_erf.default: _named(aten.erf.default),
    aten.special_erfc.default: _named(aten.erfc.default),
    aten.special_sinc.default: _named(aten.sinc.default),
    aten.special_expm1.default: _named(aten.expm1.default),
    aten.special_log1p.default: _named(aten.log1p.default),
    aten.arctan.default: _named(aten.atan.default),
    aten.arctan2.default: _named(aten.atan2.default),
    aten.arcsin.default: _named(aten.asin.default),
    aten.arccos.default: _named(aten.acos.default),
    aten.arcsinh.default: _named(aten.asinh.default),
    aten.arccosh.default: _named(aten.acosh.default),
    aten.arctanh.default: _named(aten.atanh.default),
    aten.sgn.default: _named(aten.sign.default),
    aten.log2.default: _scaled_logarithm(2),
    aten.log10.default: _scaled_logarithm(10),
    aten.deg2rad.default: _degrees,
    aten.rad2deg.default: _degrees,
    aten.round.decimals: _rounded,
    aten.nan_to_num.default: _numbers_alone,
    aten.logit.default: _log_odds,
    aten.special_logit.default: _log_odds,
    aten.special_ndtr.default: _normal_distribution,
    aten.float_power.Tensor_Scalar: _float_power,
    aten.float_power.Tensor_Tensor: _float_power,
    aten.pow.Tensor_Tensor: _tensor_power,
    **dict.fromkeys((aten.xlogy.Tensor, aten.special_xlogy.default), _product_with_logarithm),
    aten.special_xlog1py.default: _product_with_logarithm,
    aten.hypot.default: _length,
    aten.copysign.Tensor: _with_sign,
    **dict.fromkeys((aten.logaddexp.default, aten.logaddexp2.default), _soft_maximum),
}
