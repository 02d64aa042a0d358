"""Functions of single entries, and PyTorch's own derivatives of them, as formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from agf_fx.exports.onnx.arithmetic import truncated
from agf_fx.exports.onnx.sizes import Type
from agf_fx.exports.onnx.values import Value, apply, cast, equal, where

aten = torch.ops.aten

Lowering = Callable[..., Any]


def _by(formula: Callable[..., Value]) -> Lowering:
    """A formula that does not look at the type of its result."""
    return lambda kind, *args, **kwargs: formula(*args, **kwargs)


def _function(op: str) -> Lowering:
    """ONNX's operator of one operand; of integers, where PyTorch gives numbers, on these."""
    return lambda kind, x: apply(op, cast(x, kind.dtype))


def _abs(x: Value) -> Value:
    return apply("Abs", x)


def _exp(x: Value) -> Value:
    return apply("Exp", x)


def _log(x: Value) -> Value:
    return apply("Log", x)


def _sigmoid(x: Value) -> Value:
    return apply("Sigmoid", x)


def _tanh(x: Value) -> Value:
    return apply("Tanh", x)


def _clip(x: Value, low: float | None, high: float | None) -> Value:
    if x.dtype.is_floating_point:
        return apply("Clip", x, low, high)
    x = x if low is None else apply("Max", x, low)
    return x if high is None else apply("Min", x, high)


def _expm1(x: Value) -> Value:
    """eˣ - 1; near 0 by 2t / (1 - t) for t = tanh x/2, which keeps the digits that the difference loses."""
    t = _tanh(x * 0.5)
    return where(_abs(x) < 0.5, 2.0 * t / (1.0 - t), _exp(x) - 1.0)


def _log1p(x: Value) -> Value:
    """log(1 + x); near 0 by log(u) x / (u - 1) for u = 1 + x, in which the rounding of u cancels."""
    u = x + 1.0
    v = u - 1.0
    return where(equal(v, 0.0), x, where(equal(v, x), _log(u), _log(u) * (x / v)))


def _softplus(x: Value, beta: float = 1, threshold: float = 20) -> Value:
    z = x * beta
    return where(z > threshold, x, _log1p(_exp(z)) / beta)


def _softplus_backward(g: Value, x: Value, beta: float, threshold: float) -> Value:
    return where(x * beta > threshold, g, g * _sigmoid(x * beta))


def _elu(x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    return where(x > 0.0, x * scale, _expm1(x * input_scale) * (alpha * scale))


def _elu_backward(g: Value, alpha: float, scale: float, input_scale: float, is_result: bool, x: Value) -> Value:
    """``is_result``: x is the activation's output."""
    slope = (x + alpha * scale) * input_scale if is_result else _exp(x * input_scale) * (input_scale * alpha * scale)
    return where(x > 0.0, g * scale, g * slope)


def _leaky_relu(x: Value, slope: float = 0.01) -> Value:
    return where(x > 0.0, x, x * slope)


def _prelu(x: Value, slope: Value) -> Value:
    if x.rank > 2 and slope.shape != (1,):
        slope = apply("Reshape", slope, [-1, *[1] * (x.rank - 2)])
    return where(x > 0.0, x, x * slope)


_SQRT_HALF, _SQRT_2_PI = math.sqrt(0.5), math.sqrt(2 / math.pi)


def _gelu(x: Value, approximate: str = "none") -> Value:
    return x * 0.5 * (_gelu_curve(x, approximate) + 1.0)


def _gelu_curve(x: Value, approximate: str) -> Value:
    """erf(x/√2), or its approximation by tanh."""
    if approximate == "tanh":
        return _tanh((x + x * x * x * 0.044715) * _SQRT_2_PI)
    return apply("Erf", x * _SQRT_HALF)


def _gelu_backward(g: Value, x: Value, approximate: str = "none") -> Value:
    """g · (Φ(x) + x Φ'(x))."""
    curve = _gelu_curve(x, approximate)
    if approximate == "tanh":
        slope = (1.0 - curve * curve) * ((x * x * (3 * 0.044715) + 1.0) * _SQRT_2_PI)
    else:
        slope = _exp(x * x * -0.5) * _SQRT_2_PI
    return g * ((curve + 1.0) * 0.5 + x * slope * 0.5)


def _silu_backward(g: Value, x: Value) -> Value:
    s = _sigmoid(x)
    return g * s * (x * (1.0 - s) + 1.0)


def _mish_backward(g: Value, x: Value) -> Value:
    t = _tanh(_softplus(x))
    return g * (t + x * _sigmoid(x) * (1.0 - t * t))


def _hardsigmoid(x: Value) -> Value:
    return _clip(x + 3.0, 0.0, 6.0) / 6.0


def _hardswish_backward(g: Value, x: Value) -> Value:
    return where(x <= -3.0, 0.0, where(x < 3.0, g * (x / 3.0 + 0.5), g))


def _between(g: Value, x: Value, low: float, high: float) -> Value:
    """g where low < x < high, else 0."""
    return where(apply("And", x > low, x < high), g, 0.0)


def _sinc(x: Value) -> Value:
    u = x * math.pi
    zero = equal(u, 0.0)
    return where(zero, 1.0, apply("Sin", u) / where(zero, 1.0, u))


def _entropy(x: Value) -> Value:
    """-x log x; 0 at 0, and -∞ below."""
    return where(x > 0.0, -(x * _log(x)), where(x < 0.0, -math.inf, x))


def _logit(x: Value, eps: float | None = None) -> Value:
    x = x if eps is None else _clip(x, eps, 1 - eps)
    return _log(x / (1.0 - x))


def _logit_backward(g: Value, x: Value, eps: float | None = None) -> Value:
    slope = g / (x * (1.0 - x))
    low, beyond = (0.0, math.nan) if eps is None else (eps, 0.0)
    return where(apply("Or", x < low, x > 1 - low), beyond, slope)


# Giles (2012), "Approximating the erfinv function", in single precision: of w - 5/2 for w < 5, else of √w - 3.
_ERFINV_NEAR = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
    *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
_ERFINV_FAR = (
    *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773),
    *(-0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)


def _erfinv(x: Value) -> Value:
    w = -(_log1p(-x) + _log1p(x))
    near = w < 5.0
    root = apply("Sqrt", w)
    t, series = where(near, w - 2.5, root - 3.0), where(near, _ERFINV_NEAR[0], root * 0.0 + _ERFINV_FAR[0])
    for a, b in zip(_ERFINV_NEAR[1:], _ERFINV_FAR[1:], strict=True):
        series = series * t + where(near, a, root * 0.0 + b)
    return where(equal(w, math.inf), x * math.inf, series * x)


def _rounded(x: Value, decimals: int) -> Value:
    scale = 10.0 ** abs(decimals)
    return apply("Round", x * scale) / scale if decimals >= 0 else apply("Round", x / scale) * scale


def _signbit(x: Value) -> Value:
    """Of zeros by their reciprocals, as no comparison tells -0 from 0."""
    negative_zero = apply("And", equal(x, 0.0), apply("Reciprocal", x) < 0.0)
    return apply("Or", x < 0.0, negative_zero)


def _clamp(kind: Type, x: Value, low: float | None = None, high: float | None = None) -> Value:
    return _clip(cast(x, kind.dtype), low, high)


ELEMENTWISE: dict[Callable[..., Any], Lowering] = {
    aten.abs.default: _function("Abs"),
    aten.neg.default: _function("Neg"),
    aten.sign.default: _function("Sign"),
    aten.relu.default: _function("Relu"),
    aten.exp.default: _function("Exp"),
    aten.log.default: _function("Log"),
    aten.sqrt.default: _function("Sqrt"),
    aten.reciprocal.default: _function("Reciprocal"),
    aten.sigmoid.default: _function("Sigmoid"),
    aten.tanh.default: _function("Tanh"),
    aten.erf.default: _function("Erf"),
    aten.sin.default: _function("Sin"),
    aten.cos.default: _function("Cos"),
    aten.tan.default: _function("Tan"),
    aten.asin.default: _function("Asin"),
    aten.acos.default: _function("Acos"),
    aten.atan.default: _function("Atan"),
    aten.sinh.default: _function("Sinh"),
    aten.cosh.default: _function("Cosh"),
    aten.asinh.default: _function("Asinh"),
    aten.acosh.default: _function("Acosh"),
    aten.atanh.default: _function("Atanh"),
    aten.floor.default: _function("Floor"),
    aten.ceil.default: _function("Ceil"),
    aten.round.default: _function("Round"),
    aten.round.decimals: _by(_rounded),
    aten.signbit.default: _by(_signbit),
    aten.trunc.default: _by(truncated),
    aten.log2.default: _by(lambda x: _log(x) / math.log(2)),
    aten.log10.default: _by(lambda x: _log(x) / math.log(10)),
    aten.erfc.default: _by(lambda x: 1.0 - apply("Erf", x)),
    aten.erfinv.default: _by(_erfinv),
    aten.sinc.default: _by(_sinc),
    aten.special_entr.default: _by(_entropy),
    aten.logit.default: _by(_logit),
    aten.logit_backward.default: _by(_logit_backward),
    aten.logical_not.default: lambda kind, x: apply("Not", cast(x, torch.bool)),
    aten.rsqrt.default: _by(lambda x: apply("Reciprocal", apply("Sqrt", x))),
    aten.expm1.default: _by(_expm1),
    aten.log1p.default: _by(_log1p),
    aten.exp2.default: _by(lambda x: _exp(x * math.log(2))),
    aten.square.default: _by(lambda x: x * x),
    aten.clamp.default: _clamp,
    aten.clamp_min.default: lambda kind, x, low: _clamp(kind, x, low, None),
    aten.clamp_max.default: lambda kind, x, high: _clamp(kind, x, None, high),
    aten.threshold_backward.default: _by(lambda g, y, threshold: where(y <= threshold, 0.0, g)),
    aten.sigmoid_backward.default: _by(lambda g, y: g * (1.0 - y) * y),
    aten.tanh_backward.default: _by(lambda g, y: g * (1.0 - y * y)),
    aten.softplus.default: _by(_softplus),
    aten.softplus_backward.default: _by(_softplus_backward),
    aten.elu.default: _by(_elu),
    aten.elu_backward.default: _by(_elu_backward),
    aten.leaky_relu.default: _by(_leaky_relu),
    aten.leaky_relu_backward.default: _by(lambda g, x, slope, _: where(x > 0.0, g, g * slope)),
    aten.prelu.default: _by(_prelu),
    aten.gelu.default: _by(_gelu),
    aten.gelu_backward.default: _by(_gelu_backward),
    aten.silu.default: _by(lambda x: x * _sigmoid(x)),
    aten.silu_backward.default: _by(_silu_backward),
    aten.mish.default: _by(lambda x: x * _tanh(_softplus(x))),
    aten.mish_backward.default: _by(_mish_backward),
    aten.hardsigmoid.default: _by(_hardsigmoid),
    aten.hardsigmoid_backward.default: _by(lambda g, x: _between(g / 6.0, x, -3.0, 3.0)),
    aten.hardswish.default: _by(lambda x: x * _clip(x + 3.0, 0.0, 6.0) / 6.0),
    aten.hardswish_backward.default: _by(_hardswish_backward),
    aten.hardtanh.default: _by(lambda x, low=-1.0, high=1.0: _clip(x, low, high)),
    aten.hardtanh_backward.default: _by(_between),
}
