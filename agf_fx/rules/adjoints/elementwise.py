"""Functions of every entry: g ⊙ f'(x), with f' computed once per image and not once per target."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch

from agf_fx.rules.numerics import Value
from agf_fx.rules.site import Site, Vjp

aten = torch.ops.aten


def _by(derivative: Callable[[Site], Value]) -> Vjp:
    return lambda site, g: (g * derivative(site),)


def _by_backward(backward: torch._ops.OpOverload) -> Vjp:
    """f' from PyTorch's own backward operation, which takes gradient, input and the options of f."""
    return _by(lambda site: backward(torch.ones_like(site.x), site.x, *site.args[1:], **site.kwargs))


def _leaky_relu(site: Site) -> Value:
    return aten.leaky_relu_backward.default(torch.ones_like(site.x), site.x, site.args[1], False)


def _elu(site: Site) -> Value:
    return aten.elu_backward.default(torch.ones_like(site.x), *site.args[1:], False, site.x)


def _prelu(site: Site) -> Value:
    """1 where x > 0, elsewhere the slope of the channel."""
    slope = site.args[1]
    if site.x_type.rank > 2:
        slope = torch.reshape(slope, [-1, *[1] * (site.x_type.rank - 2)])
    positive = torch.relu(torch.sign(site.x))
    return positive + (-positive + 1.0) * slope


@functools.cache
def clamp_keeps_bounds() -> bool:
    """Whether this version of PyTorch hands a gradient to entries exactly at a bound of a clamp; versions differ."""
    with torch.inference_mode(False), torch.enable_grad():
        bound = torch.ones(1, dtype=torch.float32, device="cpu", requires_grad=True)
        (gradient,) = torch.autograd.grad(bound.clamp(0, 1), bound)
    return bool(gradient)


def _clamp(site: Site) -> Value:
    """1 between the bounds, 0 beyond them, and at them as PyTorch has it: a white pixel may lie at one."""
    _, low, high = site.args
    beyond = ([] if low is None else [site.x - low]) + ([] if high is None else [-site.x + high])
    if clamp_keeps_bounds():
        inside = [-torch.relu(torch.sign(-distance)) + 1.0 for distance in beyond]
    else:
        inside = [torch.relu(torch.sign(distance)) for distance in beyond]
    return inside[0] * inside[1] if len(inside) == 2 else inside[0]


def _power(site: Site) -> Value:
    exponent = site.args[1]
    return torch.pow(site.x, exponent - 1) * exponent if exponent else torch.zeros_like(site.x)


# Of d/du (sin u / u): (-1)ᵏ 2k / (2k + 1)! for k = 1, 2, ..., the factors of u²ᵏ⁻¹.
_SINC_SERIES = [(-1) ** k * 2 * k / math.factorial(2 * k + 1) for k in range(1, 9)]


def _sinc(site: Site) -> Value:
    """(cos πx - sinc x) / x; where |πx| < 1, in which the difference loses its digits, by its series."""
    near = torch.abs(site.x) < 1 / math.pi
    u = torch.masked_fill(site.x, aten.logical_not.default(near), 0.0) * math.pi
    square, series = u * u, _SINC_SERIES[-1]
    for factor in _SINC_SERIES[-2::-1]:
        series = square * series + factor
    away = torch.masked_fill(site.x, near, 1.0)
    far = (aten.cos.default(away * math.pi) - site.y) / away
    return torch.masked_fill(far, near, 0.0) + u * series * math.pi


def _one_less_square(x: Value) -> Value:
    """1 - x², with its digits near 1."""
    return (-x + 1.0) * (x + 1.0)


ELEMENTWISE: dict[Callable[..., object], Vjp] = {
    aten.relu.default: lambda site, g: (aten.threshold_backward.default(g, site.y, 0),),
    aten.sigmoid.default: lambda site, g: (aten.sigmoid_backward.default(g, site.y),),
    aten.tanh.default: lambda site, g: (aten.tanh_backward.default(g, site.y),),
    aten.gelu.default: _by_backward(aten.gelu_backward.default),
    aten.silu.default: _by_backward(aten.silu_backward.default),
    aten.mish.default: _by_backward(aten.mish_backward.default),
    aten.hardswish.default: _by_backward(aten.hardswish_backward.default),
    aten.hardsigmoid.default: _by_backward(aten.hardsigmoid_backward.default),
    aten.hardtanh.default: _by_backward(aten.hardtanh_backward.default),
    aten.softplus.default: _by_backward(aten.softplus_backward.default),
    aten.leaky_relu.default: _by(_leaky_relu),
    aten.elu.default: _by(_elu),
    aten.prelu.default: _by(_prelu),
    aten.clamp.default: _by(_clamp),
    aten.neg.default: lambda site, g: (-g,),
    aten.abs.default: _by(lambda site: torch.sign(site.x)),
    aten.exp.default: _by(lambda site: site.y),
    aten.expm1.default: _by(lambda site: site.y + 1.0),
    aten.log.default: _by(lambda site: aten.reciprocal.default(site.x)),
    aten.log1p.default: _by(lambda site: aten.reciprocal.default(site.x + 1.0)),
    aten.sin.default: _by(lambda site: aten.cos.default(site.x)),
    aten.cos.default: _by(lambda site: -aten.sin.default(site.x)),
    aten.sqrt.default: _by(lambda site: aten.reciprocal.default(site.y) * 0.5),
    aten.rsqrt.default: _by(lambda site: site.y * site.y * site.y * -0.5),
    aten.reciprocal.default: _by(lambda site: -(site.y * site.y)),
    aten.log2.default: _by(lambda site: aten.reciprocal.default(site.x * math.log(2))),
    aten.log10.default: _by(lambda site: aten.reciprocal.default(site.x * math.log(10))),
    aten.pow.Tensor_Scalar: _by(_power),
    aten.erf.default: _by(lambda site: torch.exp(-(site.x * site.x)) * (2 / math.sqrt(math.pi))),
    aten.erfc.default: _by(lambda site: torch.exp(-(site.x * site.x)) * (-2 / math.sqrt(math.pi))),
    aten.erfinv.default: _by(lambda site: torch.exp(site.y * site.y) * (math.sqrt(math.pi) / 2)),
    aten.logit.default: _by_backward(aten.logit_backward.default),
    aten.special_entr.default: _by(lambda site: -(aten.log.default(site.x) + 1.0)),
    aten.sinc.default: _by(_sinc),
    aten.tan.default: _by(lambda site: site.y * site.y + 1.0),
    aten.asin.default: _by(lambda site: torch.rsqrt(_one_less_square(site.x))),
    aten.acos.default: _by(lambda site: -torch.rsqrt(_one_less_square(site.x))),
    aten.atan.default: _by(lambda site: aten.reciprocal.default(site.x * site.x + 1.0)),
    aten.sinh.default: _by(lambda site: aten.cosh.default(site.x)),
    aten.cosh.default: _by(lambda site: aten.sinh.default(site.x)),
    aten.asinh.default: _by(lambda site: torch.rsqrt(site.x * site.x + 1.0)),
    aten.acosh.default: _by(lambda site: torch.rsqrt((site.x - 1.0) * (site.x + 1.0))),
    aten.atanh.default: _by(lambda site: aten.reciprocal.default(_one_less_square(site.x))),
    aten.remainder.Scalar: lambda site, g: (g,),
    aten.fmod.Scalar: lambda site, g: (g,),
}
