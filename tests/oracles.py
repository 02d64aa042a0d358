"""The rules once more, from the mathematics: one sample at a time, dense matrices, float64, nothing shared with agf_fx.

A layer is the matrix of its linear map, made by pushing basis vectors through it. Relevances and gradients come and go
in the shape of one sample. `each` maps a function over the samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import mpmath
import torch
from torch import Tensor

F = torch.nn.functional
EPSILON = 1e-9


def each(function: Callable[..., Tensor], *batches: Tensor, **more: Any) -> Tensor:
    """``function`` applied to every sample."""
    return torch.stack([function(*samples, **more) for samples in zip(*batches, strict=True)])


def div(a: Tensor, b: Tensor) -> Tensor:
    """a / (b + 1e-9), entry by entry; 0 where b is 0, and 1e-9 in place of a denominator of 0."""
    entries = []
    for top, bottom in zip(a.expand(b.shape).flatten().tolist(), b.flatten().tolist(), strict=True):
        entries.append(0.0 if bottom == 0 else top / ((bottom + EPSILON) or EPSILON))
    return torch.tensor(entries, dtype=b.dtype).reshape(b.shape)


def max_normalise(a: Tensor) -> Tensor:
    return div(a, a.max().abs().expand(a.shape))  # abs: signs never turn


def delta_shift(C: Tensor, r: Tensor) -> Tensor:
    active = C != 0
    return C + r - active * (r.sum() / active.sum()) if active.any() else C


# Linear layers


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer without bias: ``run(batch, weight)`` on samples of ``shape``."""

    run: Callable[[Tensor, Tensor], Tensor]
    weight: Tensor
    shape: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def matrix(self, weight: Tensor) -> Tensor:
        """(outputs, inputs)."""
        size = torch.Size(self.shape).numel()
        basis = torch.eye(size, dtype=weight.dtype).reshape(size, *self.shape)
        return self.run(basis, weight, **self.options).flatten(1).T

    @cached_property
    def signed(self) -> Tensor:
        return self.matrix(self.weight)

    @cached_property
    def absolute(self) -> Tensor:
        return self.matrix(self.weight.abs())

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor]:
        return self.matrix(self.weight.clamp(min=0)), self.matrix(self.weight.clamp(max=0))


def convolution(weight: Tensor, shape: Sequence[int], transposed: bool = False, **geometry: Any) -> Layer:
    """Of samples (C, *spatial), in as many dimensions as these have."""
    convolve = getattr(F, f"conv_transpose{len(shape) - 1}d" if transposed else f"conv{len(shape) - 1}d")
    return Layer(lambda x, w, **options: convolve(x, w, None, **options), weight, tuple(shape), geometry)


def linear(weight: Tensor, shape: Sequence[int]) -> Layer:
    return Layer(F.linear, weight, tuple(shape))


def matrices(weight: Tensor, shape: Sequence[int]) -> Layer:
    """x W with a matrix, or several; ``shape`` is that of the whole batch, which counts as one sample."""
    return Layer(torch.matmul, weight, tuple(shape))


def pull_back(layer: Layer, g: Tensor) -> Tensor:
    """Lᵀ g."""
    return (layer.signed.T @ g.flatten()).reshape(layer.shape)


def absolute_influence(layer: Layer, x: Tensor, phi: Tensor) -> Tensor:
    """C_i = Σ_j |x_i W_ji| Φ_j / Σ_k |x_k W_jk|."""
    contributions = layer.absolute * x.abs().flatten()
    return (contributions.T @ div(phi.flatten(), contributions.sum(1))).reshape(x.shape)


def input_agnostic_influence(layer: Layer, x: Tensor, phi: Tensor) -> Tensor:
    """A_i = Σ_j |W_ji| Φ_j / Σ_k |W_jk|."""
    return (layer.absolute.T @ div(phi.flatten(), layer.absolute.sum(1))).reshape(x.shape)


def z_box(layer: Layer, x: Tensor, phi: Tensor) -> Tensor:
    """Σ_j z_ji Φ_j / Σ_k z_jk for z_ji = x_i W_ji - l W⁺_ji - h W⁻_ji."""
    positive, negative = layer.parts
    z = layer.signed * x.flatten() - positive * x.min() - negative * x.max()
    return (z.T @ div(phi.flatten(), z.sum(1))).reshape(x.shape)


# Residual terms


def factorise(Y: Tensor, partition: Tensor, dialect: str, rank_tolerance: float = 1e-12) -> Tensor:
    """F = W_f - W_b for H ≈ R W, by a library's least squares; Y (C, h, w), partition (h, w), F (h, w)."""
    reference = dialect == "reference"
    H = torch.sigmoid((10 if reference else 1) * max_normalise(Y)).flatten(1)
    foreground = (partition > 0).flatten()
    background = (partition < 0).flatten() if reference else ~foreground
    nothing = torch.zeros(len(H), dtype=H.dtype)
    R = torch.stack([H[:, region].mean(1) if region.any() else nothing for region in (background, foreground)], 1)
    if reference:  # min ‖H - R W‖² + ‖W‖², a least-squares problem in [R; I]
        eye, zeros = torch.eye(2, dtype=H.dtype), torch.zeros(2, H.shape[1], dtype=H.dtype)
        W = torch.linalg.lstsq(torch.cat([R, eye]), torch.cat([H, zeros])).solution
    else:
        W = torch.linalg.pinv(R, rtol=rank_tolerance) @ H
    W_b, W_f = W.relu()
    return (W_f - W_b).reshape(partition.shape)


def convolution_step(layer: Layer, x: Tensor, phi: Tensor, g: Tensor, options: Any) -> Tensor:
    """Φ_in of a full convolution under ``options``, an AGFOptions; x (C, h, w)."""
    C = absolute_influence(layer, x, phi)
    partition = C.mean(0)
    g_x, seen = pull_back(layer, g), pull_back(layer, torch.where(phi == 0, 0.0, g))
    inner, outer = torch.zeros_like(x), torch.zeros_like(x)
    if options.numerator == "gradcam":
        inner = inner + (x * seen.mean((1, 2), keepdim=True)).mean(0).relu()
    else:
        if options.factorise_input:
            inner = inner + factorise(x, partition, options.dialect).relu()
        if options.input_gradient:
            inner = inner + max_normalise((x * g_x).mean(0).relu())
    if options.input_agnostic:
        outer = outer + input_agnostic_influence(layer, x, phi)
    if options.factorise_gradient:
        outer = outer + factorise(seen, partition, options.dialect).relu()
    weight = 1 / (1 + torch.exp(-C)) if options.regulariser else 1.0
    return delta_shift(C, torch.where(C == 0, 0.0, outer + weight * inner))


def flatten_boundary(layer: Layer, x: Tensor, phi: Tensor, g: Tensor, shape: Sequence[int], channel_dim: int) -> Tensor:
    """Φ_in of a linear layer that reads a feature map of ``shape``; ``channel_dim`` counts without the batch."""
    C = absolute_influence(layer, x, phi)
    product = (x * pull_back(layer, g)).reshape(*shape)
    mean = product.mean(channel_dim, keepdim=True).expand(product.shape).reshape(x.shape)
    return delta_shift(C, max_normalise(torch.where(C == 0, 0.0, mean.relu())))


# Everything else


def fan_out(x: Tensor, contributions: Sequence[Tensor]) -> Tensor:
    return x * sum(div(phi, x) for phi in contributions)


def normalised_channel_sum(phi: Tensor) -> Tensor:
    peak = phi.max() if 1000 * phi.max() >= phi.abs().max() else phi.abs().max()
    return (phi / peak if peak != 0 else torch.zeros_like(phi)).sum(0)


def softened_target(y: Tensor, target: int) -> Tensor:
    """ŷ_t = softmax(y_t · exp(-½((y - y_t)/σ)²))_t, as the paper writes it; y (classes,)."""
    y_t = y[target]
    sigma = (y - y_t).abs().max()
    return torch.softmax(y_t * torch.exp(-0.5 * ((y - y_t) / sigma) ** 2), 0)[target]


def softened_target_gradient(y: Tensor, target: int) -> Tensor:
    y = y.clone().requires_grad_()
    return torch.autograd.grad(softened_target(y, target), y)[0]


def exact_softened_target_gradient(y: Tensor, target: int) -> Tensor:
    """The same with 1000 digits, where one logit lies farther from the target's than the others."""

    def softened(*y: Any) -> Any:
        sigma = max(abs(y_i - y[target]) for y_i in y)
        scores = [mpmath.exp(y[target] * mpmath.exp(-(((y_i - y[target]) / sigma) ** 2) / 2)) for y_i in y]
        return scores[target] / sum(scores)

    with mpmath.workdps(1000):
        orders = [tuple(row) for row in torch.eye(len(y), dtype=torch.int64).tolist()]
        return torch.tensor([float(mpmath.diff(softened, tuple(y.tolist()), order)) for order in orders], dtype=y.dtype)


def transposed_jacobian(function: Callable[..., Tensor], operands: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    """Jᵀ g for each operand, by the dense Jacobian; here operands and g are batches."""
    jacobians = torch.autograd.functional.jacobian(function, tuple(operands))
    return [torch.tensordot(g, J, dims=g.dim()) for J in jacobians]


def proportional(function: Callable[..., Tensor], operands: Sequence[Tensor], phi: Tensor) -> list[Tensor]:
    """x_k ⊙ J_kᵀ (Φ / f(x)) for each operand x_k."""
    shares = transposed_jacobian(function, operands, div(phi, function(*operands)))
    return [x * share for x, share in zip(operands, shares, strict=True)]


def halves(function: Callable[..., Tensor], operands: Sequence[Tensor], phi: Tensor) -> list[Tensor]:
    """x_k ⊙ J_kᵀ (Φ / 2 f(x)): half of the relevance to either operand of a product, by its share."""
    return proportional(function, operands, phi / 2)


def softmax(function: Callable[[Tensor], Tensor], x: Tensor, phi: Tensor) -> Tensor:
    """x ⊙ Jᵀ (Φ / s) for s = softmax(x) and J its dense Jacobian, 0 where s is."""
    s = function(x)
    (share,) = transposed_jacobian(function, [x], torch.where(s == 0, 0.0, phi / s))
    return torch.where(s == 0, 0.0, x * share)


def average(function: Callable[..., Tensor], x: Tensor, phi: Tensor) -> list[Tensor]:
    """|x| ⊙ Jᵀ (Φ / J|x|), J the dense matrix of a linear map with entries ≥ 0."""
    (share,) = transposed_jacobian(function, [x], div(phi, function(x.abs())))
    return [x.abs() * share]


def by_influence(function: Callable[..., Tensor], operands: Sequence[Tensor], phi: Tensor) -> list[Tensor]:
    """|a J_a| / (|a J_a| + |b J_b|) Φ for each operand a, J_a the diagonal of its dense Jacobian."""
    slopes = transposed_jacobian(function, operands, torch.ones_like(phi))
    return by_size([x * slope for x, slope in zip(operands, slopes, strict=True)], phi)


def by_size(operands: Sequence[Tensor], phi: Tensor) -> list[Tensor]:
    """|a| / (|a| + |b|) Φ for each operand a."""
    share = div(phi, sum(operand.abs() for operand in operands))
    return [operand.abs() * share for operand in operands]
