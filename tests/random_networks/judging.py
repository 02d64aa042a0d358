"""Comparisons that the checks share."""

from __future__ import annotations

from torch import Tensor


def largest(maps: Tensor) -> Tensor:
    """The largest absolute value of each map, (N, K)."""
    return maps.abs().flatten(2).amax(2)


def close(found: Tensor, expected: Tensor, tolerance: float, complaint: str) -> None:
    error, scale = float((found - expected).abs().max()), float(expected.abs().max())
    require(error <= tolerance * scale, f"{complaint} by {error:.2g}, their largest entry is {scale:.2g}")


def require(holds: bool, complaint: str) -> None:
    if not holds:
        raise AssertionError(complaint)
