"""Guided factorisation: a feature map as foreground and background, guided by the sign of the attribution."""

from __future__ import annotations

import torch

from agf_fx.rules.numerics import Value, divide_or_zero, max_normalise

RANK_TOLERANCE = 1e-10  # of |d|² / |R_f|²: far above float32 rounding of d (1e-14), far below any real difference


def guided_factorisation(Y: Value, guides: Value, rank: int, dialect: str) -> Value:
    """F(Y, φ) = W_f - W_b (paper, eq. 7 and the text before it), for several φ at once.

    H = sigmoid(N_max(Y)) is factorised as H ≈ R W, where the columns of R are the means of H over background and
    foreground, and W = ReLU((RᵀR + λI)⁻¹ Rᵀ H); the 2×2 inverse is written out.

    Args:
        Y: features, shape (..., C, *spatial), with any leading dimensions.
        guides: J maps φ for each of them, shape (..., J, P), P the number of positions; foreground where positive.
        rank: 2 + the number of spatial dimensions.
        dialect: ``"reference"`` (sharpness 10, λ = 1, φ = 0 in neither region) or ``"paper"`` (1, 0, background).

    Returns:
        Shape (..., J, P).
    """
    reference = dialect == "reference"
    H = torch.sigmoid(max_normalise(Y, rank, 10.0 if reference else 1.0))
    H = torch.flatten(H, 2 - rank, -1)
    side = torch.sign(guides)
    foreground, background = torch.relu(side), torch.relu(-side)
    R_f = _mean_over(H, foreground)
    R_b = _mean_over(H, background if reference else -foreground + 1.0)
    W_b, W_f = (_ridge if reference else _least_squares)(R_b, R_f, H)
    return torch.relu(W_f) - torch.relu(W_b)


def _mean_over(H: Value, region: Value) -> Value:
    """Mean of H (..., C, P) over each region (..., J, P), per channel: (..., J, C); 0 where a region is empty."""
    count = torch.clamp_min(torch.sum(region, [-1], True), 1)
    return torch.matmul(region, torch.transpose(H, -2, -1)) / count


def _dot(p: Value, q: Value) -> Value:
    return torch.sum(p * q, [-1], True)


def _ridge(R_b: Value, R_f: Value, H: Value) -> tuple[Value, Value]:
    """(RᵀR + I)⁻¹ RᵀH, the rows of background and foreground: (..., J, P) each; det(RᵀR + I) ≥ 1."""
    a, b, c = _dot(R_b, R_b) + 1.0, _dot(R_b, R_f), _dot(R_f, R_f) + 1.0
    det = a * c - b * b
    # R is small and H is large, so the inverse is applied to R.
    return (
        torch.matmul((c * R_b - b * R_f) / det, H),
        torch.matmul((a * R_f - b * R_b) / det, H),
    )


def _least_squares(R_b: Value, R_f: Value, H: Value) -> tuple[Value, Value]:
    """R⁺H by orthogonalisation: R_f = k R_b + d with d ⊥ R_b, which keeps the digits that det(RᵀR) loses.

    Where d is numerically zero, R has rank one (or zero) and R⁺ = Rᵀ / tr(RᵀR), R⁺H the minimum-norm solution.
    """
    a, c = _dot(R_b, R_b), _dot(R_f, R_f)
    k = divide_or_zero(_dot(R_b, R_f), a)
    d = R_f - k * R_b
    height = _dot(d, d)
    foreground = divide_or_zero(d, height)
    background = divide_or_zero(R_b, a) - k * foreground
    dependent = height <= c * RANK_TOLERANCE
    trace = a + c
    return (
        torch.matmul(torch.where(dependent, divide_or_zero(R_b, trace), background), H),
        torch.matmul(torch.where(dependent, divide_or_zero(R_f, trace), foreground), H),
    )
