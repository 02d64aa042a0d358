"""Certificates of the 2×2 systems of the factorisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.numbers import Number, number, symbols
from agf_fx.inspect.certificates.symbolic import Symbolic
from agf_fx.rules import factorisation
from agf_fx.rules.rule import Rule


def _solve(function: Callable, R: np.ndarray, H: np.ndarray) -> np.ndarray:
    """What the code makes of the columns of R (3, 2) and of H (3, 2): rows of background and foreground."""
    R_b, R_f = (Symbolic(R[:, k].reshape(1, 1, -1)) for k in range(2))
    return np.array([row.entries[0, 0] for row in function(R_b, R_f, Symbolic(H[None]))], dtype=object)


def _normal_equations(rule: Rule) -> Iterator[Number]:
    """(RᵀR + I) W = RᵀH."""
    R, H = symbols("r", [[1, 2], [3, -1], [2, 5]]), symbols("h", [[2, 1], [1, -3], [4, 2]])
    W = _solve(factorisation._ridge, R, H)
    eye = np.array([[number(1), number(0)], [number(0), number(1)]])
    yield from ((R.T @ R + eye) @ W - R.T @ H).flat


def _least_squares(rule: Rule) -> Iterator[Number]:
    """RᵀR W = RᵀH, and of rank one the solution of least norm, which lies in the span of R's rows."""
    H = symbols("h", [[2, 1], [1, -3], [4, 2]])
    regular = symbols("r", [[1, 2], [3, -1], [2, 5]])
    none = np.full(3, number(0), dtype=object)
    for R in (regular, np.stack([regular[:, 0], none], 1), np.stack([none, regular[:, 1]], 1)):
        W = _solve(factorisation._least_squares, R, H)
        yield from (R.T @ R @ W - R.T @ H).flat
        if R is not regular:
            yield from W[1 if R[0, 0] else 0].flat
    first, factor = regular[:, 0], symbols("q", [3])[0]
    W = _solve(factorisation._least_squares, np.stack([first, first * factor], 1), H)
    R = np.stack([first, first * factor], 1)
    yield from (R.T @ R @ W - R.T @ H).flat
    yield from (W[1] - W[0] * factor).flat


FACTORISATION = (
    Claim(
        "the closed form of the factorisation solves the normal equations of the ridge",
        "R of 3 channels, H of 2 positions",
        _normal_equations,
        r"(R^{\mathsf T} R + I)\, W = R^{\mathsf T} H",
    ),
    Claim(
        "that of the paper's dialect is the least-squares solution, of least norm where R has rank one",
        "R of 3 channels, H of 2 positions; empty and parallel regions",
        _least_squares,
        r"W = R^{+} H",
    ),
)
