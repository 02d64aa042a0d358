"""Sums, products and quotients of two values, of which either may be a constant."""

from __future__ import annotations

from collections.abc import Callable

import torch

from agf_fx.rules.numerics import Value
from agf_fx.rules.site import Site, Vjp

aten = torch.ops.aten


def _product(site: Site, g: Value) -> tuple[Value, ...]:
    (a, b), (a_varies, b_varies) = site.operands, site.are_signals
    return (g * b if a_varies else None, g * a if b_varies else None)


def _quotient(site: Site, g: Value) -> tuple[Value, ...]:
    b, (a_varies, b_varies) = site.operands[1], site.are_signals
    return (g / b if a_varies else None, -(g * (site.y / b)) if b_varies else None)


def _matrix_product(site: Site, g: Value) -> tuple[Value, ...]:
    (a, b), (a_varies, b_varies) = site.operands, site.are_signals
    return (
        torch.matmul(g, torch.transpose(b, -2, -1)) if a_varies else None,
        torch.matmul(torch.transpose(a, -2, -1), g) if b_varies else None,
    )


def _jointly(*derivatives: Callable[[Site, Value, Value], Value]) -> Vjp:
    """A function of two values, entry by entry, from its derivatives by either."""

    def vjp(site: Site, g: Value) -> tuple[Value, ...]:
        pairs = zip(derivatives, site.are_signals, strict=True)
        return tuple(g * derivative(site, *site.operands) if varies else None for derivative, varies in pairs)

    return vjp


def _over(a: Value, b: Value) -> Value:
    """a / b, and 0 where b is 0."""
    none = b == 0
    return torch.masked_fill(a / torch.masked_fill(b, none, 1.0), none, 0.0)


def _by_base(site: Site, a: Value, b: Value) -> Value:
    """b aᵇ⁻¹, and 0 where b is 0."""
    return torch.masked_fill(aten.pow.Tensor_Tensor(a, b - 1.0) * b, b == 0, 0.0)


def _by_exponent(site: Site, a: Value, b: Value) -> Value:
    """aᵇ log a, and 0 where a is 0 and b is not negative."""
    a = torch.zeros_like(site.y) + a
    none = (a == 0) * (b >= 0)
    return torch.masked_fill(site.y * aten.log.default(torch.masked_fill(a, none, 1.0)), none, 0.0)


ARITHMETIC: dict[Callable[..., object], Vjp] = {
    aten.add.Tensor: lambda site, g: (g, g),
    aten.sub.Tensor: lambda site, g: (g, -g),
    aten.mul.Tensor: _product,
    aten.div.Tensor: _quotient,
    aten.matmul.default: _matrix_product,
    aten.pow.Tensor_Tensor: _jointly(_by_base, _by_exponent),
    aten.hypot.default: _jointly(lambda site, a, b: _over(a, site.y), lambda site, a, b: _over(b, site.y)),
    aten.atan2.default: _jointly(
        lambda site, a, b: _over(b, a * a + b * b), lambda site, a, b: -_over(a, a * a + b * b)
    ),
    aten.remainder.Tensor: _jointly(
        lambda site, a, b: torch.ones_like(site.y), lambda site, a, b: -aten.floor_divide.default(a, b)
    ),
    aten.fmod.Tensor: _jointly(
        lambda site, a, b: torch.ones_like(site.y), lambda site, a, b: -aten.trunc.default(a / b)
    ),
    aten.logaddexp.default: _jointly(lambda site, a, b: torch.sigmoid(a - b), lambda site, a, b: torch.sigmoid(b - a)),
}
