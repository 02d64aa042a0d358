"""Certificates of gradients: that of every operation is the transposed Jacobian."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import sympy
import torch

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.claims.movement import MOVEMENT, movements
from agf_fx.inspect.certificates.claims.signals import pair
from agf_fx.inspect.certificates.laws import transposed
from agf_fx.inspect.certificates.layers import Case, Constant, call, case, linear, messages
from agf_fx.inspect.certificates.numbers import Number, logs, symbols, total
from agf_fx.rules import linear_maps
from agf_fx.rules.rule import Rule

aten = torch.ops.aten
_ANY, _INSIDE, _ABOVE = (2, -3), (0.5, -0.25), (2, 3)
_ENTRYWISE = {
    aten.relu.default: _ANY,
    aten.sigmoid.default: _ANY,
    aten.tanh.default: _ANY,
    aten.neg.default: _ANY,
    aten.abs.default: _ANY,
    aten.exp.default: _ANY,
    aten.expm1.default: _ANY,
    aten.log.default: _ABOVE,
    aten.special_entr.default: _ABOVE,
    aten.log1p.default: _ABOVE,
    aten.sin.default: _ANY,
    aten.cos.default: _ANY,
    aten.sqrt.default: _ABOVE,
    aten.rsqrt.default: _ABOVE,
    aten.reciprocal.default: _ANY,
    aten.tan.default: _INSIDE,
    aten.asin.default: _INSIDE,
    aten.acos.default: _INSIDE,
    aten.atan.default: _ANY,
    aten.sinh.default: _ANY,
    aten.cosh.default: _ANY,
    aten.asinh.default: _ANY,
    aten.acosh.default: _ABOVE,
    aten.atanh.default: _INSIDE,
}


def _called(target: Callable[..., Any], *args: Any) -> Case:
    return case(target._schema.name.partition("::")[2], call(target, *args))


@functools.cache
def entrywise() -> tuple[Case, ...]:
    """Functions of every entry, where their derivatives are written by hand."""
    found = [_called(target, symbols("x", [values])) for target, values in _ENTRYWISE.items()]
    x, slope = symbols("x", [_ANY]), Constant(symbols("c", [0.5, 0.25]))
    clamped = symbols("x", [(2, -3, 0.5)])
    return (
        *found,
        _called(aten.pow.Tensor_Scalar, x, 3),
        _called(aten.prelu.default, x, slope),
        _called(aten.clamp.default, clamped, -1, 1),
        _called(aten.clamp.default, clamped, 0, None),
    )


@functools.cache
def of_several() -> tuple[Case, ...]:
    """Products, quotients, norms, maxima, sums and means: what mixes entries."""
    a, b = pair((2, -3), (5, 1))
    left, right = symbols("a", [[[2, -3], [5, 1]]]), symbols("b", [[[1, 4], [-2, 3]]])
    x, c = symbols("x", [[2, -3, 5]]), Constant(symbols("c", [3, -2]))
    maps = symbols("x", [[[2, -3], [5, 1]]])
    statistics = [Constant(symbols(name, [3, 2])) for name in ("gamma", "beta", "mu", "v")]
    scores = logs(symbols("e", [[2, 3, 0.5]]))
    return (
        _called(aten.add.Tensor, a, b),
        _called(aten.sub.Tensor, a, b),
        _called(aten.mul.Tensor, a, b),
        _called(aten.mul.Tensor, a, c),
        _called(aten.div.Tensor, a, b),
        _called(aten.div.Tensor, a, c),
        _called(aten.matmul.default, left, right),
        _called(aten.hypot.default, a, b),
        _called(aten.atan2.default, a, b),
        _called(aten.logaddexp.default, a, b),
        _called(aten.softmax.int, scores, 1, None),
        _called(aten.log_softmax.int, scores, 1, None),
        _called(aten.logsumexp.default, scores, [1]),
        _called(aten.mean.dim, maps, [2]),
        _called(aten.sum.dim_IntList, maps, [1]),
        _called(aten.amax.default, maps, [2]),
        _called(aten.linalg_vector_norm.default, x, 2, [1]),
        _called(aten.batch_norm.default, maps, *statistics, False, 0.0, symbols("eta", [0.5])[0], True),
    )


@functools.cache
def convolutions() -> tuple[Case, ...]:
    """Convolutions and transposed ones: strides that leave entries unread, padding, dilation, groups."""
    one = symbols("x", [[[2, -3, 5, 7, 1]]])
    two = symbols("x", [[[2, -3, 5], [7, 1, -4]]])
    kernel, wide = Constant(symbols("W", [[[3, -1]]])), Constant(symbols("W", [[[3, -1, 2]], [[1, 4, -2]]]))
    three = Constant(symbols("W", [[[3, -1, 2]]]))
    return (
        *linear(bias=True)[:1],
        _called(aten.conv1d.default, one, kernel, None, [2], [0], [1], 1),
        _called(aten.conv1d.default, one, three, None, [3], [1], [2], 1),
        _called(aten.conv1d.default, two, wide, None, [1], [1], [1], 2),
        _called(
            aten.conv_transpose1d.default,
            two,
            Constant(symbols("W", [[[3, -1]], [[1, 2]]])),
            None,
            [2],
            [1],
            [1],
            1,
            [1],
        ),
        _called(aten.conv_transpose1d.default, two, wide, None, [1], [0], [0], 2, [2]),
    )


@functools.cache
def _norms() -> tuple[Case, ...]:
    x, gamma, eps = symbols("x", [[2, -3, 5]]), Constant(symbols("gamma", [3, -2, 1])), symbols("eta", [0.5])[0]
    maps, scale = symbols("x", [[[2], [-3], [1], [5]]]), Constant(symbols("gamma", [3, -2, 1, 4]))
    return (
        _called(aten.layer_norm.default, x, [3], gamma, None, eps, True),
        _called(aten.group_norm.default, maps, 2, scale, None, eps, True),
        _called(aten.rms_norm.default, x, [3], gamma, eps),
    )


ENTRYWISE = f"{len(_ENTRYWISE) + 3} functions of 2 to 3 entries each: relu, sigmoid, tanh, exp, log, sin, asin, pow, …"
SEVERAL = "sums, products, quotients, matrix products, softmaxes, maxima, means, norms of 2 to 4 entries"
CONVOLUTIONS = "linear layer; convolutions of 3 to 5 entries with strides, padding, dilation, groups; transposed ones"
NORMS = "layer norm and RMS norm of 3 entries, group norm of 2 groups of 2"
ADJOINT = r"\langle L x, s \rangle = \langle x, L^{\mathsf T} s \rangle"


def chain_rule(rule: Rule) -> tuple[Claim, ...]:
    """Vector-Jacobian products; what is PyTorch's own backward operation is taken from there."""
    return (
        transposed(convolutions, CONVOLUTIONS),
        transposed(entrywise, ENTRYWISE),
        transposed(of_several, SEVERAL),
        transposed(_norms, NORMS),
        transposed(movements, MOVEMENT),
        Claim("the adjoint of a layer is its adjoint", CONVOLUTIONS, _inner_products, ADJOINT),
        *OUTPUT_PADDING,
    )


def _inner_products(rule: Rule) -> Iterator[Number]:
    """⟨Lx, s⟩ - ⟨x, Lᵀs⟩."""
    for each in convolutions():
        (pulled, *_) = messages(rule, each)
        x, weight = each.site.x, each.site.weight
        y = linear_maps.apply(each.site, x, weight).entries
        for target, s in enumerate(each.message):
            yield total((y * s).flat) - total((x.entries * pulled[target]).flat)


# A transposed convolution has as much output padding as the convolution's strides leave unread

_SIZE, _RESULT, _KERNEL, _STRIDE, _DILATION = sympy.symbols("x y k t d", integer=True, positive=True)
_PADDING, _MORE = sympy.symbols("p o", integer=True, nonnegative=True)


def _gives_back_the_size(rule: Rule) -> Iterator[Number]:
    size = (_RESULT - 1) * _STRIDE - 2 * _PADDING + _DILATION * (_KERNEL - 1) + 1 + _MORE  # of a transposed convolution
    (padding,) = sympy.solve(size - _SIZE, _MORE)
    yield Number(linear_maps.unread(_SIZE, _RESULT, _KERNEL, _STRIDE, _PADDING, _DILATION) - padding, 0.0)


def _is_below_the_stride(rule: Rule) -> Iterator[Number]:
    """It is the remainder of a division by the stride, and so from 0 to t - 1."""
    span = _SIZE + 2 * _PADDING - _DILATION * (_KERNEL - 1) - 1  # how far the first entry of a window can move
    outputs = sympy.floor(span / _STRIDE) + 1  # of the convolution
    padding = linear_maps.unread(_SIZE, outputs, _KERNEL, _STRIDE, _PADDING, _DILATION)
    yield Number(sympy.simplify(padding - sympy.Mod(span, _STRIDE).rewrite(sympy.floor)), 0.0)
    part = sympy.frac(span / _STRIDE)
    yield Number(sympy.simplify(padding / _STRIDE - part.rewrite(sympy.floor)), 0.0)
    yield Number(int((part >= 0) is not sympy.true or (part < 1) is not sympy.true), 0.0)


OUTPUT_PADDING = (
    Claim(
        "output padding gives back the size of the input",
        "a convolution of any sizes",
        _gives_back_the_size,
        r"o = x + 2p - d(k - 1) - 1 - t(y - 1)",
    ),
    Claim(
        "output padding is at least 0 and below the stride",
        "a convolution of any sizes",
        _is_below_the_stride,
        r"o = (x + 2p - d(k - 1) - 1) \bmod t",
    ),
)


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.rules.gradients:vjp ∇": chain_rule,
}
