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


ARITHMETIC: dict[Callable[..., object], Vjp] = {
    aten.add.Tensor: lambda site, g: (g, g),
    aten.sub.Tensor: lambda site, g: (g, -g),
    aten.mul.Tensor: _product,
    aten.div.Tensor: _quotient,
    aten.matmul.default: _matrix_product,
}
