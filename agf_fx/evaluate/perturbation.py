"""What a network says of images while pixels are taken away in the order of a map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from agf_fx.errors import InputError, OptionsError
from agf_fx.evaluate.imputation import Imputation, constant

Predict = Callable[[Tensor], Tensor]

DECILES = tuple(step / 10 for step in range(1, 10))  # 10 % to 90 %, as in the paper's perturbation tests


@dataclass(frozen=True)
class Curves:
    """What a network says at each step: all (N, K, S), for N images, K maps of each and S steps.

    Attributes:
        fractions: (S,) float64; the share of pixels that is hidden.
        probability: of the map's class.
        log_odds: log p / (1 - p) of it.
        correct: bool; whether the label is the likeliest class; by sigmoids, whether its probability is above 0.5.
    """

    fractions: Tensor
    probability: Tensor
    log_odds: Tensor
    correct: Tensor

    def area(self, values: Tensor) -> Tensor:
        """The area under a curve by the trapezium rule over the range of the fractions: (N, K), in the units of values.

        The areas of the paper's Tab. 2 are over 0.1 to 0.9, and so 0.8 times as large.
        """
        values = values.to(torch.float64)
        if len(self.fractions) == 1:
            return values[..., 0]
        return torch.trapezoid(values, self.fractions.to(values), dim=-1) / float(
            self.fractions[-1] - self.fractions[0]
        )


@torch.no_grad()
def perturbation(
    predict: Predict,
    images: Tensor,
    maps: Tensor,
    target: Tensor,
    *,
    labels: Tensor | None = None,
    first: Literal["least", "most"] = "least",
    fractions: Sequence[float] = DECILES,
    impute: Imputation | None = None,
    activation: Literal["softmax", "sigmoid"] = "softmax",
    batch: int = 64,
    seed: int = 0,
    region: int = 1,
) -> Curves:
    """Take pixels away, and ask the network.

    Negative perturbation takes the least relevant first: a good map leaves the class alone for long (Gur et al. 2021,
    Fig. 3 and Tab. 2). Positive perturbation takes the most relevant first (Samek et al. 2017); `deletion` and
    `insertion` are of this kind (Petsiuk et al. 2018), and with `noisy_linear` this is ROAD (Rong et al. 2022).

    Args:
        predict: images (M, C, H, W) -> logits (M, classes), or (M, classes, *positions), which count by their means.
        images: (N, C, H, W) as the network takes them.
        maps: (N, K, H, W), or (N, H, W) for one map of each.
        target: (N, K) or (N,) int64: the classes of the maps.
        labels: (N,) or (N, K) int64: which class counts as correct, -1 being none; None for ``target``. Or (N, K, L):
            any of L classes does.
        first: which pixels go first.
        fractions: of the pixels that are hidden, from 0 to 1, growing.
        impute: what stands in their place; None for 0 in the units of the images.
        activation: from logits to probabilities; sigmoid for networks of several labels.
        batch: how many images the network is given at once.
        seed: of the order of pixels of which a map says the same.
        region: pixels go in squares of this many by this many, in the order of their mean relevance, as in Samek et al.
            2017 (9 there); those at the right and the lower edge may be smaller. Holes of single pixels disturb a
            network that has not seen any, whichever they are, so that fine maps fare worse than blurred ones; squares
            ask the same of both.

    Raises:
        InputError: shapes do not fit, or the maps hold NaN.
        OptionsError: fractions, ``first`` or ``region`` have no meaning.
    """
    maps, target = _each(maps, 4), _each(target, 2)
    labels = target if labels is None else _each(labels, 2)
    labels = (labels if labels.dim() == 3 else labels[..., None]).expand(*target.shape, -1)
    _check(images, maps, target, first, fractions)
    if activation not in ("softmax", "sigmoid"):
        raise OptionsError(f"activation is {activation!r}; give 'softmax' or 'sigmoid'.")
    order = ranks(maps if first == "least" else -maps, seed, region)
    steps = torch.tensor(tuple(fractions), dtype=torch.float64)
    counts = (steps * order[0, 0].numel()).round().long().to(order.device)
    impute = constant(0.0) if impute is None else impute
    found: list[Tensor] = []
    for rows in torch.arange(order[..., 0, 0].numel() * len(counts), device=order.device).split(batch):
        pair, step = rows // len(counts), rows % len(counts)
        hidden = order.flatten(0, 1)[pair] < counts[step][:, None, None]
        logits = predict(impute(images[pair // maps.shape[1]], hidden))
        logits = logits.flatten(2).mean(2) if logits.dim() > 2 else logits
        found.append(_said(logits, target.reshape(-1)[pair], labels.flatten(0, 1)[pair], activation))
    log_odds, correct = torch.cat(found, 1).reshape(2, *target.shape, len(counts))
    return Curves(steps, torch.sigmoid(log_odds), log_odds, correct > 0)


def deletion(predict: Predict, images: Tensor, maps: Tensor, target: Tensor, steps: int = 50, **more: Any) -> Tensor:
    """The mean probability while the most relevant pixels go (Petsiuk et al. 2018): (N, K), lower is better.

    Args:
        predict, images, maps, target: see `perturbation`, which takes ``more`` too.
        steps: how many, from nothing hidden to everything.
    """
    curves = perturbation(predict, images, maps, target, first="most", fractions=_even(steps), **more)
    return curves.area(curves.probability)


def insertion(predict: Predict, images: Tensor, maps: Tensor, target: Tensor, steps: int = 50, **more: Any) -> Tensor:
    """The mean probability while the most relevant pixels come (Petsiuk et al. 2018): (N, K), higher is better.

    Published with `blur` in the place of what has not come yet.

    Args:
        predict, images, maps, target: see `perturbation`, which takes ``more`` too.
        steps: how many, from everything hidden to nothing.
    """
    curves = perturbation(predict, images, maps, target, first="least", fractions=_even(steps), **more)
    return curves.area(curves.probability)


def ranks(maps: Tensor, seed: int = 0, region: int = 1) -> Tensor:
    """The place of every pixel of a map from its least to its most relevant, int64, of the shape (..., H, W) of maps.

    Pixels with the same value are in random order, as a fixed one would favour a part of the image where maps are
    flat; the order depends on the seed and the size alone, and is the same for all maps. The pixels of a region (see
    `perturbation`) follow each other, in random order too.

    Raises:
        OptionsError: ``region`` is less than 1.
    """
    if region < 1:
        raise OptionsError(f"region is {region}; give the pixels of a side, 1 or more.")
    if region > 1:
        height, width = maps.shape[-2:]
        means = avg_pool2d(maps.flatten(0, -3)[:, None], region, ceil_mode=True, count_include_pad=False)
        places = ranks(means, seed).repeat_interleave(region, -2).repeat_interleave(region, -1)
        maps = places[..., :height, :width].reshape(maps.shape)
    flat = maps.flatten(-2)
    shuffle = torch.randperm(flat.shape[-1], generator=torch.Generator().manual_seed(seed)).to(maps.device)
    order = shuffle[flat[..., shuffle].argsort(dim=-1, stable=True)]
    places = torch.arange(flat.shape[-1], device=maps.device).expand(order.shape)
    return torch.empty_like(order).scatter_(-1, order, places).reshape(maps.shape)


def _even(steps: int) -> list[float]:
    if steps < 1:
        raise OptionsError(f"steps must be 1 or more, not {steps}.")
    return [step / steps for step in range(steps + 1)]


def _said(logits: Tensor, target: Tensor, labels: Tensor, activation: str) -> Tensor:
    """Log-odds of the targets and whether a label is found, (2, M) float64 where the device has it."""
    if bool((target < 0).any()) or bool((target >= logits.shape[1]).any()):
        raise InputError(f"classes are {sorted(set(target.tolist()))}, and the network has {logits.shape[1]}.")
    wide = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)
    own = wide.gather(1, target[:, None])[:, 0]
    if activation == "softmax":  # log p - log (1 - p), from the logits of the others
        own = own - wide.scatter(1, target[:, None], -torch.inf).logsumexp(1)
        found = logits.argmax(1)[:, None] == labels
    else:
        found = (wide.gather(1, labels.clamp_min(0)) > 0) & (labels >= 0)
    return torch.stack([own, found.any(1).to(own)])


def _each(values: Tensor, dims: int) -> Tensor:
    return values.unsqueeze(1) if values.dim() == dims - 1 else values


def _check(images: Tensor, maps: Tensor, target: Tensor, first: str, fractions: Sequence[float]) -> None:
    if images.dim() != 4 or maps.shape != (*target.shape, *images.shape[2:]) or len(images) != len(maps):
        raise InputError(
            f"images {tuple(images.shape)}, maps {tuple(maps.shape)} and target {tuple(target.shape)} do not fit; give "
            "(N, C, H, W), (N, K, H, W) and (N, K)."
        )
    if bool(maps.isnan().any()):
        raise InputError("maps hold NaN, which has no place in an order; leave these images out.")
    if first not in ("least", "most"):
        raise OptionsError(f"first is {first!r}; give 'least' or 'most'.")
    rising = all(a < b for a, b in zip(fractions, [*fractions][1:], strict=False))
    if not len(fractions) or not rising or not 0 <= min(fractions) <= max(fractions) <= 1:
        raise OptionsError(f"fractions are {tuple(fractions)}; give growing numbers from 0 to 1.")
