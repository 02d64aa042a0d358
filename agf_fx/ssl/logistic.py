"""Logistic regression in float64: convex, from a fixed start, so that nothing is drawn."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

_CONSTANT = 1e-9  # of its size: the deviation from which a feature says nothing
_STEEPEST = 1e-7  # entry of the gradient where the search ends


class Fit(NamedTuple):
    """A linear classifier.

    Attributes:
        weight: (classes, D) float64.
        bias: (classes,) float64.
        steepest: the largest entry of the gradient where the search ended.
    """

    weight: Tensor
    bias: Tensor
    steepest: float


def fit(features: Tensor, labels: Tensor, classes: int, penalty: float, steps: int) -> Fit:
    """Minimise the mean loss + penalty/2 · ‖W‖² over standardised features, by L-BFGS.

    The loss is the cross-entropy of the softmax, or of each class's sigmoid, summed over classes, for several labels.
    The standardisation is folded into the result: it takes features as they are.

    Args:
        features: (M, D) float64.
        labels: (M,) int64, or (M, classes) float64 of zeros and ones.
        classes: how many there are.
        penalty: on the weights of standardised features; not on the bias.
        steps: at most.
    """
    mean, deviation = features.mean(0), features.std(0, correction=0)
    scale = torch.where(deviation > _CONSTANT * (1 + mean.abs()), 1 / deviation, 0.0)
    x = (features - mean) * scale
    weight = x.new_zeros(classes, x.shape[1], requires_grad=True)
    bias = x.new_zeros(classes, requires_grad=True)
    search = torch.optim.LBFGS(
        [weight, bias],
        max_iter=steps,
        max_eval=2 * steps,
        tolerance_grad=_STEEPEST,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        search.zero_grad()
        logits = x @ weight.T + bias
        if labels.dim() == 1:
            told = cross_entropy(logits, labels)
        else:
            told = binary_cross_entropy_with_logits(logits, labels) * classes
        total = told + penalty / 2 * weight.square().sum()
        total.backward()
        return total

    search.step(loss)
    loss()
    steepest = float(torch.cat([weight.grad.flatten(), bias.grad]).abs().max())
    folded = weight.detach() * scale
    return Fit(folded, bias.detach() - folded @ mean, steepest)
