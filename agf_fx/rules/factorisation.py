"""Guided factorisation: a feature map as foreground and background, guided by the sign of the attribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agf_fx.rules.numerics import Value, divide_or_zero, max_normalise

RANK_TOLERANCE = 1e-10  # of |d|² / |R_f|²: far above float32 rounding of d (1e-14), far below any real difference


def guided_factorisation(Y: Value, partition: Value, spatial: Sequence[int], dialect: str) -> Value:
    """F(Y, φ) = W_f - W_b (paper, eq. 7 and the text before it).

    H = sigmoid(N_max(Y)) is factorised as H ≈ R W, where the columns of R are the means of H over background and
    foreground, and W = ReLU((RᵀR + λI)⁻¹ Rᵀ H); the 2×2 inverse is written out.

    Args:
        Y: features, shape (N, C, *spatial).
        partition: φ, shape (N, 1, *spatial); foreground where positive.
        spatial: the spatial sizes.
        dialect: ``"reference"`` (sharpness 10, λ = 1, φ = 0 in neither region) or ``"paper"`` (1, 0, background).

    Returns:
        A map of shape (N, 1, *spatial).
    """
    sharpness = 10.0 if dialect == "reference" else 1.0
    H = torch.flatten(torch.sigmoid(max_normalise(Y, 2 + len(spatial)) * sharpness), 2)
    phi = torch.flatten(partition, 2)
    R_f = _mean_over(H, phi > 0)
    R_b = _mean_over(H, phi < 0 if dialect == "reference" else phi <= 0)

    W_b, W_f = (_ridge if dialect == "reference" else _least_squares)(R_b, R_f, H)
    return torch.reshape(torch.relu(W_f) - torch.relu(W_b), [-1, 1, *spatial])


def _mean_over(H: Value, region: Value) -> Value:
    """Mean of H (N, C, P) over the region (N, 1, P), per channel: (N, C, 1); 0 where the region is empty."""
    count = torch.clamp_min(torch.sum(region, [2], True), 1)
    return torch.sum(H * region, [2], True) / count


def _dot(p: Value, q: Value) -> Value:
    return torch.sum(p * q, [1], True)


def _project(R: Value, H: Value) -> Value:
    return torch.bmm(torch.transpose(R, 1, 2), H)


def _ridge(R_b: Value, R_f: Value, H: Value) -> tuple[Value, Value]:
    """(RᵀR + I)⁻¹ RᵀH, the rows of background and foreground: (N, 1, P) each; det(RᵀR + I) ≥ 1."""
    u, v = _project(R_b, H), _project(R_f, H)
    a, b, c = _dot(R_b, R_b) + 1.0, _dot(R_b, R_f), _dot(R_f, R_f) + 1.0
    det = a * c - b * b
    return (c * u - b * v) / det, (a * v - b * u) / det


def _least_squares(R_b: Value, R_f: Value, H: Value) -> tuple[Value, Value]:
    """R⁺H by orthogonalisation: R_f = k R_b + d with d ⊥ R_b, which keeps the digits that det(RᵀR) loses.

    Where d is numerically zero, R has rank one (or zero) and R⁺ = Rᵀ / tr(RᵀR), R⁺H the minimum-norm solution.
    """
    a, c = _dot(R_b, R_b), _dot(R_f, R_f)
    k = divide_or_zero(_dot(R_b, R_f), a)
    d = R_f - k * R_b
    height = _dot(d, d)
    u, v = _project(R_b, H), _project(R_f, H)
    foreground = divide_or_zero(_project(d, H), height)
    background = divide_or_zero(u, a) - k * foreground
    dependent = height <= c * RANK_TOLERANCE
    trace = a + c
    return (
        torch.where(dependent, divide_or_zero(u, trace), background),
        torch.where(dependent, divide_or_zero(v, trace), foreground),
    )
