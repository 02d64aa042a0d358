"""Pooling, means and resampling."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from agf_fx.rules.numerics import Value, nonzero
from agf_fx.rules.site import Site, Vjp

aten = torch.ops.aten


def _by_backward(backward: torch._ops.OpOverload) -> Vjp:
    """PyTorch's own backward operation, which takes gradient, input and the options of the pooling."""

    def vjp(site: Site, g: Value) -> tuple[Value, ...]:
        return (site.per_target(lambda flat, x: backward(flat, x, *site.args[1:]), g, site.x),)

    return vjp


def _by_indices(backward: Callable[..., Value], options: bool = True) -> Vjp:
    """The same for poolings that also return where each maximum was found."""

    def vjp(site: Site, g: Value) -> tuple[Value, ...]:
        rest = site.args[1:] if options else ()
        return (site.per_target(lambda flat, x, indices: backward(flat, x, *rest, indices), g, site.x, site.output[1]),)

    return vjp


def _adaptive_max_pool3d_backward(g: Value, x: Value, indices: Value) -> Value:
    """PyTorch's CPU kernel reads the indices as if they were contiguous, and those of one repeated image are not."""
    return aten.adaptive_max_pool3d_backward.default(g, x, aten.contiguous.default(indices))


def _by_size(backward: torch._ops.OpOverload) -> Vjp:
    """Resampling: the backward operation takes the sizes of output and input."""

    def vjp(site: Site, g: Value) -> tuple[Value, ...]:
        _, size, *options = site.args

        def adjoint(flat: Value) -> Value:
            return backward(flat, size, [aten.sym_size.int(flat, 0), *site.x_type.sample_shape], *options)

        return (site.per_target(adjoint, g),)

    return vjp


def _from_patches(site: Site, g: Value) -> tuple[Value, ...]:
    """``nn.Fold`` sums patches where they overlap; its adjoint cuts them out."""
    return (site.per_target(lambda flat: aten.im2col.default(flat, *site.args[2:]), g),)


def kept(site: Site, value: Value, dims: list[int], targets: bool) -> Value:
    """A value reduced over ``dims``, with these dimensions back, of size 1; ``targets``: (K, ...)."""
    shape = [1 if dim in dims else size for dim, size in enumerate(site.x_type.free_batch)]
    return torch.reshape(value, [site.targets, *shape] if targets else shape)


def _repeat(site: Site, value: Value, dims: list[int]) -> Value:
    """(K, ...) reduced over ``dims`` -> (K, *x), every entry repeated."""
    sizes = [size if dim in dims else -1 for dim, size in enumerate(site.x_type.shape)]
    return aten.expand.default(kept(site, value, dims, targets=True), [-1, *sizes])


def _mean(site: Site, g: Value) -> tuple[Value, ...]:
    dims = site.args[1]
    return (_repeat(site, g / math.prod(site.x_type.shape[dim] for dim in dims), dims),)


def _sum(site: Site, g: Value) -> tuple[Value, ...]:
    return (_repeat(site, g, site.args[1]),)


def _maximum(site: Site, g: Value) -> tuple[Value, ...]:
    """To the largest entries, in equal parts where several are equal."""
    dims = site.args[1]
    largest = -nonzero(site.x - kept(site, site.y, dims, targets=False)) + 1.0
    ties = torch.sum(largest, dims, True)
    return (kept(site, g, dims, targets=True) * (largest / ties),)


def _log_sum_exp(site: Site, g: Value) -> tuple[Value, ...]:
    """By the weights exp(x - log Σ exp x)."""
    dims = site.args[1]
    return (kept(site, g, dims, targets=True) * torch.exp(site.x - kept(site, site.y, dims, targets=False)),)


POOLING: dict[Callable[..., object], Vjp] = {
    aten.max_pool2d_with_indices.default: _by_indices(aten.max_pool2d_with_indices_backward.default),
    aten.max_pool3d_with_indices.default: _by_indices(aten.max_pool3d_with_indices_backward.default),
    aten.adaptive_max_pool2d.default: _by_indices(aten.adaptive_max_pool2d_backward.default, options=False),
    aten.adaptive_max_pool3d.default: _by_indices(_adaptive_max_pool3d_backward, options=False),
    aten.avg_pool2d.default: _by_backward(aten.avg_pool2d_backward.default),
    aten.avg_pool3d.default: _by_backward(aten.avg_pool3d_backward.default),
    aten.adaptive_avg_pool2d.default: lambda site, g: (
        site.per_target(aten._adaptive_avg_pool2d_backward.default, g, site.x),
    ),
    aten.adaptive_avg_pool3d.default: lambda site, g: (
        site.per_target(aten._adaptive_avg_pool3d_backward.default, g, site.x),
    ),
    aten.upsample_linear1d.default: _by_size(aten.upsample_linear1d_backward.default),
    aten.upsample_bilinear2d.default: _by_size(aten.upsample_bilinear2d_backward.default),
    aten.upsample_trilinear3d.default: _by_size(aten.upsample_trilinear3d_backward.default),
    aten.col2im.default: _from_patches,
    aten.mean.dim: _mean,
    aten.sum.dim_IntList: _sum,
    aten.amax.default: _maximum,
    aten.logsumexp.default: _log_sum_exp,
}
