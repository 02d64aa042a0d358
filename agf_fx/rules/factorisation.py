"""Guided factorisation: a feature map as foreground and background, guided by the sign of the attribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agf_fx.rules.numerics import Value, max_normalise


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

    # RᵀR = [[a, b], [b, c]] and RᵀH = [u; v], background first.
    a, b, c = _dot(R_b, R_b), _dot(R_b, R_f), _dot(R_f, R_f)
    u, v = _project(R_b, H), _project(R_f, H)
    solve = _ridge if dialect == "reference" else _least_squares
    W_b, W_f = solve(a, b, c, u, v)
    return torch.reshape(torch.relu(W_f) - torch.relu(W_b), [-1, 1, *spatial])


def _mean_over(H: Value, region: Value) -> Value:
    """Mean of H (N, C, P) over the region (N, 1, P), per channel: (N, C, 1); 0 where the region is empty."""
    count = torch.clamp_min(torch.sum(region, [2], True), 1)
    return torch.sum(H * region, [2], True) / count


def _dot(p: Value, q: Value) -> Value:
    return torch.sum(p * q, [1], True)


def _project(R: Value, H: Value) -> Value:
    return torch.bmm(torch.transpose(R, 1, 2), H)


def _ridge(a: Value, b: Value, c: Value, u: Value, v: Value) -> tuple[Value, Value]:
    """(G + I)⁻¹ [u; v] for G = [[a, b], [b, c]]; det(G + I) ≥ 1."""
    a, c = a + 1.0, c + 1.0
    det = a * c - b * b
    return (c * u - b * v) / det, (a * v - b * u) / det


def _least_squares(a: Value, b: Value, c: Value, u: Value, v: Value) -> tuple[Value, Value]:
    """G⁺ [u; v]: the inverse, or G / (tr G)² where G has rank one, or 0 where G = 0."""
    det, trace = a * c - b * b, a + c
    singular = det <= 1e-6 * trace * trace  # the relative size at which float32 loses the determinant
    inverse = torch.reciprocal(torch.masked_fill(det, singular, 1.0))
    square = torch.masked_fill(trace * trace, trace == 0, 1.0)
    background = torch.where(singular, (a * u + b * v) / square, (c * u - b * v) * inverse)
    foreground = torch.where(singular, (b * u + c * v) / square, (a * v - b * u) * inverse)
    return background, foreground
