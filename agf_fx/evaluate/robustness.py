"""How maps change with their images, how well they foretell the network, and how few pixels they name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agf_fx.errors import InputError, OptionsError
from agf_fx.evaluate.perturbation import Predict

Explain = Callable[[Tensor, Tensor], Tensor]


def max_sensitivity(
    explain: Explain, images: Tensor, target: Tensor, *, radius: float = 0.02, samples: int = 10, seed: int = 0
) -> Tensor:
    """The largest relative change of a map under small changes of its image (Yeh et al., NeurIPS 2019, eq. 4).

    max over δ of ‖Φ(x + δ) - Φ(x)‖ / ‖Φ(x)‖, estimated by ``samples`` draws of δ, uniform in the cube of ``radius``.

    Args:
        explain: images (N, C, H, W) and target (N,) -> maps (N, H, W), such as an explainer.
        images: (N, C, H, W).
        target: (N,) int64, which stays the same under all changes.
        radius: half the side of the cube, in the units of the images.
        samples: how many.
        seed: of the draws, which are the same for all images, so that an image's company does not matter.

    Returns:
        (N,), 0 or more; NaN where a map is zero.

    Raises:
        OptionsError: a value has no meaning.
    """
    _require(samples, radius)
    generator = torch.Generator().manual_seed(seed)
    usual = explain(images, target)
    largest = usual.new_zeros(len(images))
    for _ in range(samples):
        change = torch.rand(images.shape[1:], generator=generator, dtype=torch.float64).to(images) * 2 - 1
        changed = explain(images + radius * change, target)
        largest = torch.maximum(largest, (changed - usual).flatten(1).norm(dim=1))
    size = usual.flatten(1).norm(dim=1)
    return torch.where(size > 0, largest / size, torch.nan)


@torch.no_grad()
def infidelity(
    predict: Predict,
    images: Tensor,
    maps: Tensor,
    target: Tensor,
    *,
    noise: float = 0.1,
    samples: int = 50,
    seed: int = 0,
    scaled: bool = True,
) -> Tensor:
    """How badly a map foretells the change of its logit (Yeh et al., NeurIPS 2019, eq. 1): (N,), 0 or more.

    The mean over changes I of (Iᵀ Φ - (f(x) - f(x - I)))², for Gaussian I of standard deviation ``noise``.

    Args:
        predict: images (N, C, H, W) -> logits (N, classes).
        images: (N, C, H, W).
        maps: (N, H, W): a change counts by its sum over channels; or (N, C, H, W).
        target: (N,) int64.
        noise: in the units of the images.
        samples: how many changes.
        seed: of these, which are the same for all images.
        scaled: multiply each map by the factor of 0 or more that suits best, as maps of most methods have units of
            their own; the published measure has none. A map that foretells nothing, or the opposite, has the factor 0.

    Raises:
        InputError: shapes do not fit.
        OptionsError: a value has no meaning.
    """
    _require(samples, noise)
    if maps.shape not in (images.shape, (len(images), *images.shape[2:])):
        raise InputError(f"maps {tuple(maps.shape)} do not fit images {tuple(images.shape)}; give (N, H, W).")
    generator = torch.Generator().manual_seed(seed)
    weights = maps if maps.dim() == 4 else maps.unsqueeze(1).expand_as(images)
    usual = predict(images).gather(1, target[:, None])[:, 0]
    told, happened = [], []
    for _ in range(samples):
        change = noise * torch.randn(images.shape[1:], generator=generator, dtype=torch.float64).to(images)
        told.append((change * weights).flatten(1).sum(1))
        happened.append(usual - predict(images - change).gather(1, target[:, None])[:, 0])
    guess, truth = torch.stack(told).double(), torch.stack(happened).double()
    if scaled:
        size = guess.square().sum(0)
        guess = guess * torch.where(size > 0, (guess * truth).sum(0) / size, 0).clamp_min(0)
    return (guess - truth).square().mean(0)


def sparseness(maps: Tensor) -> Tensor:
    """The Gini index of the absolute values (Chalasani et al., ICML 2020): (...,) for maps (..., H, W).

    0 where all pixels have the same, near 1 where one has all; NaN for a map of zeros.
    """
    wide = maps if maps.dtype in (torch.float32, torch.float64) else maps.float()
    values = wide.abs().flatten(-2).sort(-1).values
    count = values.shape[-1]
    weights = 2 * torch.arange(1, count + 1, device=maps.device, dtype=values.dtype) - count - 1
    return (values * weights).sum(-1) / (count * values.sum(-1))


def _require(samples: int, size: float) -> None:
    if samples < 1 or not size > 0:
        raise OptionsError(f"{samples} samples of size {size} tell nothing; give 1 or more, above 0.")
