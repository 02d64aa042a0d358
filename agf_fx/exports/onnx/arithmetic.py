"""Operations on two operands, entry by entry, of which one may be a number."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from agf_fx.exports.onnx.sizes import Type
from agf_fx.exports.onnx.values import Inexpressible, Operand, Value, apply, cast, where

aten = torch.ops.aten

Lowering = Callable[..., Any]

_OF_MASKS = {"Add": "Or", "Mul": "And", "Max": "Or", "Min": "And"}


def binary(op: str) -> Lowering:
    """The operator on operands in the dtype of the result."""

    def lowered(kind: Type, a: Operand, b: Operand, alpha: float = 1) -> Value:
        if kind.dtype is torch.bool:
            return apply(_OF_MASKS[op], a, b)
        a, b = (cast(x, kind.dtype) if isinstance(x, Value) else x for x in (a, b))
        return apply(op, a, b if alpha == 1 else b * alpha)

    return lowered


def _reversed(op: str) -> Lowering:
    return lambda kind, a, b, alpha=1: binary(op)(kind, b, a, alpha)


def comparison(op: str) -> Lowering:
    """The operator on operands of their common dtype."""

    def lowered(kind: Type, a: Value, b: Operand) -> Value:
        common = torch.result_type(_like(a), _like(b))
        a, b = (cast(x, common) if isinstance(x, Value) else x for x in (a, b))
        return apply(op, a, b, dtypes=torch.bool)

    return lowered


def _like(x: Operand) -> Any:
    """Something with the dtype and rank of an operand, from which PyTorch says what dtype a comparison has."""
    return torch.empty([1] * x.rank, dtype=x.dtype, device="meta") if isinstance(x, Value) else x


def _different(kind: Type, a: Value, b: Operand) -> Value:
    return apply("Not", comparison("Equal")(kind, a, b))


def _remainder(kind: Type, a: Value, b: Operand) -> Value:
    """The remainder of the division rounded down."""
    a = cast(a, kind.dtype)
    return a - apply("Floor", a / b) * b if kind.dtype.is_floating_point else a % b


def _rounded_division(kind: Type, a: Value, b: Operand, rounding_mode: str | None = None) -> Value:
    a, b = (cast(x, kind.dtype) if isinstance(x, Value) else x for x in (a, b))
    if rounding_mode is None:
        return a / b
    if kind.dtype.is_floating_point:
        return apply("Floor", a / b) if rounding_mode == "floor" else truncated(a / b)
    return (a - a % b) / b if rounding_mode == "floor" else a / b  # ONNX truncates


def _truncated_remainder(kind: Type, a: Value, b: Operand) -> Value:
    """The remainder of the division rounded towards 0."""
    a, b = (cast(x, kind.dtype) if isinstance(x, Value) else x for x in (a, b))
    return apply("Mod", a, b, fmod=1)


def _length(kind: Type, a: Value, b: Value) -> Value:
    """√(a² + b²), without squares that leave the range."""
    a, b = (apply("Abs", cast(x, kind.dtype)) for x in (a, b))
    larger, smaller = apply("Max", a, b), apply("Min", a, b)
    ratio = where(larger > 0.0, smaller / larger, 0.0)
    return larger * apply("Sqrt", ratio * ratio + 1.0)


def _angle(kind: Type, a: Value, b: Value) -> Value:
    """The angle of the point (b, a), in (-π, π]."""
    a, b = (cast(x, kind.dtype) for x in (a, b))
    none = apply("Equal", b, 0.0, dtypes=torch.bool)
    upright = apply("Sign", a) * (math.pi / 2)
    turn = where(b < 0.0, where(a < 0.0, a * 0.0 - math.pi, math.pi), 0.0)
    return where(none, upright, apply("Atan", a / where(none, 1.0, b)) + turn)


def _log_of_sum(kind: Type, a: Value, b: Value) -> Value:
    """log(eᵃ + eᵇ), by the larger one."""
    a, b = (cast(x, kind.dtype) for x in (a, b))
    rest = apply("Exp", -apply("Abs", a - b))
    same = apply("Equal", a, b, dtypes=torch.bool)
    return apply("Max", a, b) + where(same, math.log(2), apply("Log", rest + 1.0))


def _unit_step(kind: Type, x: Value, middle: Value) -> Value:
    x, middle = (cast(value, kind.dtype) for value in (x, middle))
    return where(x > 0.0, 1.0, where(x < 0.0, x * 0.0, middle))


def truncated(x: Value) -> Value:
    """Rounded towards 0."""
    return apply("Sign", x) * apply("Floor", apply("Abs", x))


def _power(kind: Type, x: Value, exponent: float) -> Value:
    x = cast(x, kind.dtype)
    if exponent == 2:
        return x * x
    if isinstance(exponent, complex):
        raise Inexpressible("its exponent is complex")
    return apply("Pow", x, exponent)


def _where(kind: Type, mask: Value, a: Operand, b: Operand) -> Value:
    a, b = (cast(x, kind.dtype) if isinstance(x, Value) else x for x in (a, b))
    return where(mask, a, b)


def _masked(kind: Type, x: Value, mask: Value, value: float) -> Value:
    return where(mask, value, x)


def _of_sizes(op: Lowering) -> Lowering:
    """Python's operator on sizes, which are vectors of one entry."""
    return lambda kind, a, b: op(a, b)


ARITHMETIC: dict[Callable[..., Any], Lowering] = {
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar), binary("Add")),
    **dict.fromkeys((aten.sub.Tensor, aten.sub.Scalar), binary("Sub")),
    **dict.fromkeys((aten.rsub.Tensor, aten.rsub.Scalar), _reversed("Sub")),
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar), binary("Mul")),
    **dict.fromkeys((aten.div.Tensor, aten.div.Scalar), binary("Div")),
    **dict.fromkeys((aten.maximum.default, aten.max.other), binary("Max")),
    **dict.fromkeys((aten.minimum.default, aten.min.other), binary("Min")),
    **dict.fromkeys((aten.fmod.Tensor, aten.fmod.Scalar), _truncated_remainder),
    aten.floor_divide.default: lambda kind, a, b: _rounded_division(kind, a, b, "floor"),
    aten.hypot.default: _length,
    aten.atan2.default: _angle,
    aten.logaddexp.default: _log_of_sum,
    aten.heaviside.default: _unit_step,
    **dict.fromkeys((aten.div.Tensor_mode, aten.div.Scalar_mode), _rounded_division),
    **dict.fromkeys((aten.remainder.Tensor, aten.remainder.Scalar), _remainder),
    **dict.fromkeys((aten.eq.Tensor, aten.eq.Scalar), comparison("Equal")),
    **dict.fromkeys((aten.ne.Tensor, aten.ne.Scalar), _different),
    **dict.fromkeys((aten.lt.Tensor, aten.lt.Scalar), comparison("Less")),
    **dict.fromkeys((aten.le.Tensor, aten.le.Scalar), comparison("LessOrEqual")),
    **dict.fromkeys((aten.gt.Tensor, aten.gt.Scalar), comparison("Greater")),
    **dict.fromkeys((aten.ge.Tensor, aten.ge.Scalar), comparison("GreaterOrEqual")),
    aten.pow.Tensor_Scalar: _power,
    aten.pow.Tensor_Tensor: binary("Pow"),
    aten.where.self: _where,
    aten.masked_fill.Scalar: _masked,
    aten.logical_and.default: lambda kind, a, b: apply("And", cast(a, torch.bool), cast(b, torch.bool)),
    aten.logical_or.default: lambda kind, a, b: apply("Or", cast(a, torch.bool), cast(b, torch.bool)),
    **{op: _of_sizes(op) for op in (operator.add, operator.sub, operator.mul, operator.floordiv)},
}
