"""Vector-Jacobian products, one line per operation where the formula is one line.

Each takes the site and the gradient at its output, (K, N, ...) for K targets, and returns one gradient per operand, in
order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from operator import getitem
from typing import Any

import torch

from agf_fx.errors import VerifyError
from agf_fx.rules.linear_maps import adjoint
from agf_fx.rules.numerics import Value, expand, split_targets
from agf_fx.rules.site import Site

aten = torch.ops.aten

Vjp = Callable[[Site, Value], tuple[Value, ...]]


def vjp(site: Site, g: Value) -> tuple[Value, ...]:
    """The gradients at the operands of ``site`` from the gradient ``g`` at its output.

    Raises:
        VerifyError: a registered vjp returns the wrong number of gradients.
    """
    gradients = VJPS[site.node.target](site, g)
    if len(gradients) != len(site.operands):
        raise VerifyError(
            f"the vjp of {site.node.target} returned {len(gradients)} gradients for {len(site.operands)} operands; "
            "return one per operand, None where there is none."
        )
    return gradients


def _batch_norm(site: Site, g: Value) -> tuple[Value, ...]:
    _, weight, _, _, variance, _, _, eps, _ = site.args
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else weight * scale
    return (g * torch.reshape(scale, [-1, *[1] * (site.x_type.rank - 2)]),)


def _cat(site: Site, g: Value) -> tuple[Value, ...]:
    dim, starts = site.args[1], [0]
    for kind in site.types:
        starts.append(starts[-1] + kind.shape[dim])
    return tuple(torch.narrow(g, dim + 1, a, b - a) for a, b in itertools.pairwise(starts))


def _mean(site: Site, g: Value) -> tuple[Value, ...]:
    _, dims, _ = site.args
    shape = site.x_type.shape
    kept = [1 if dim in dims else size for dim, size in enumerate(shape)]
    count = 1
    for dim in dims:
        count *= shape[dim]
    return (expand(split_targets(g / count, site.targets, kept[1:]), shape[1:], targets=True),)


def _permute(site: Site, g: Value) -> tuple[Value, ...]:
    order = site.args[1]
    return (torch.permute(g, [0, *(order.index(dim) + 1 for dim in range(len(order)))]),)


def _max_pool(site: Site, g: Value) -> tuple[Value, ...]:
    def adjoint(flat: Value, x: Value, indices: Value) -> Value:
        return aten.max_pool2d_with_indices_backward.default(flat, x, *site.args[1:], indices)

    return (site.per_target(adjoint, g, site.x, site.output[1]),)


def _average_pool(site: Site, g: Value) -> tuple[Value, ...]:
    def adjoint(flat: Value, x: Value) -> Value:
        return aten.avg_pool2d_backward.default(flat, x, *site.args[1:])

    return (site.per_target(adjoint, g, site.x),)


def _softmax(site: Site, g: Value) -> tuple[Value, ...]:
    dim = site.args[1] - site.y_type.rank
    return (site.y * (g - torch.sum(g * site.y, [dim], True)),)


def _log_softmax(site: Site, g: Value) -> tuple[Value, ...]:
    dim = site.args[1] - site.y_type.rank
    return (g - torch.exp(site.y) * torch.sum(g, [dim], True),)


VJPS: dict[Callable[..., Any], Vjp] = {
    # Linear maps
    aten.conv2d.default: lambda site, g: (adjoint(site, g, site.weight),),
    aten.linear.default: lambda site, g: (adjoint(site, g, site.weight),),
    # Elementwise
    aten.relu.default: lambda site, g: (aten.threshold_backward.default(g, site.y, 0),),
    aten.sigmoid.default: lambda site, g: (aten.sigmoid_backward.default(g, site.y),),
    aten.batch_norm.default: _batch_norm,
    getitem: lambda site, g: (g,),
    aten.mul.Tensor: lambda site, g: (g * site.args[1], None),
    aten.div.Tensor: lambda site, g: (g / site.args[1], None),
    aten.add.Tensor: lambda site, g: (g, g),
    aten.sub.Tensor: lambda site, g: (g, -g),
    # Pooling
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.avg_pool2d.default: _average_pool,
    aten.adaptive_avg_pool2d.default: lambda site, g: (
        site.per_target(aten._adaptive_avg_pool2d_backward.default, g, site.x),
    ),
    aten.mean.dim: _mean,
    # Data movement
    aten.reshape.default: lambda site, g: (split_targets(g, site.targets, site.x_type.sample_shape),),
    aten.permute.default: _permute,
    aten.cat.default: _cat,
    # Behind the head
    aten.softmax.int: _softmax,
    aten.log_softmax.int: _log_softmax,
}
