"""Steps down a gradient, row by row, of what has to stay between 0 and 1. A state holds tensors (R, ...) by name."""

from __future__ import annotations

from torch import Tensor

_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8


def adam(state: dict[str, Tensor], name: str, gradient: Tensor, step: int, rate: float) -> None:
    """One step of Adam (Kingma and Ba 2015, Alg. 1, β₁ = 0.9, β₂ = 0.999, ε = 1e-8), cut off at 0 and 1.

    Args:
        state: what ``name`` is moved in; holds both moments as well.
        name: of what is moved.
        gradient: of what is to become small, in its shape.
        step: 0, 1, ...
        rate: the learning rate.
    """
    mean, square = (state.get(f"{name} {moment}", gradient * 0) for moment in ("mean", "square"))
    mean = state[f"{name} mean"] = mean * _FIRST + gradient * (1 - _FIRST)
    square = state[f"{name} square"] = square * _SECOND + gradient * gradient * (1 - _SECOND)
    size = (square / (1 - _SECOND ** (step + 1))).sqrt() + _TINY
    state[name] = (state[name] - rate / (1 - _FIRST ** (step + 1)) * mean / size).clamp(0, 1)


def heavy_ball(state: dict[str, Tensor], name: str, gradient: Tensor, rate: float, momentum: float) -> None:
    """One step of gradient descent with momentum, v ← μ v + g and m ← m - η v, cut off at 0 and 1.

    Args:
        state: what ``name`` is moved in; holds the velocity as well.
        name: of what is moved.
        gradient: of what is to become small, in its shape.
        rate: the learning rate η.
        momentum: μ.
    """
    velocity = state.get(f"{name} velocity", gradient * 0) * momentum + gradient
    state[f"{name} velocity"] = velocity
    state[name] = (state[name] - rate * velocity).clamp(0, 1)
