"""What stands in the place of pixels that are taken away from images.

An imputation is a function of images (M, C, H, W) and of what is hidden of them, (M, H, W) bool: it returns the images
with other values there, and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from agf_fx.errors import OptionsError

Imputation = Callable[[Tensor, Tensor], Tensor]

_STRAIGHT, _DIAGONAL = 1 / 6, 1 / 12  # weights of neighbours
_MOST_ROUNDS, _PRECISION = 2000, 1e-5


def constant(value: float | Sequence[float] | Tensor) -> Imputation:
    """One value, or one for each channel, in the units of normalised images.

    Published perturbation tests hide by black before normalisation, which is ``-mean / std`` of each channel.
    """
    values = torch.as_tensor(value, dtype=torch.float64).reshape(-1)

    def impute(images: Tensor, hidden: Tensor) -> Tensor:
        if len(values) not in (1, images.shape[1]):
            raise OptionsError(f"{len(values)} values were given for {images.shape[1]} channels; give one or as many.")
        return torch.where(hidden[:, None], values.to(images).reshape(1, -1, 1, 1), images)

    return impute


def mean_of_image() -> Imputation:
    """The mean of each channel over the whole image."""

    def impute(images: Tensor, hidden: Tensor) -> Tensor:
        return torch.where(hidden[:, None], images.mean((2, 3), keepdim=True), images)

    return impute


def blur(sigma: float | None = None) -> Imputation:
    """The image blurred by a Gaussian.

    Args:
        sigma: standard deviation in pixels; None for 10 in 224, in proportion to the longest side.

    Raises:
        OptionsError: ``sigma`` is not positive.
    """
    if sigma is not None and not sigma > 0:
        raise OptionsError(f"sigma must be above 0, not {sigma}.")

    def impute(images: Tensor, hidden: Tensor) -> Tensor:
        longest, shortest = max(images.shape[2:]), min(images.shape[2:])
        deviation = longest * 10 / 224 if sigma is None else sigma
        reach = min(max(1, round(3 * deviation)), shortest - 1)  # reflected at the edges
        blurred = T.gaussian_blur(images, [2 * reach + 1, 2 * reach + 1], [deviation, deviation])
        return torch.where(hidden[:, None], blurred, images)

    return impute


def noisy_linear(noise: float = 0.01, seed: int = 0) -> Imputation:
    """Each pixel as the weighted mean of its eight neighbours, with a little noise (Rong et al., ICML 2022, "ROAD").

    What a mask hides cannot be read from the mask's shape any more, as it can where pixels are black. Neighbours at
    the side weigh 1/6, those at the corner 1/12; at the edges of the image the weights of the others sum to less, and
    are divided by their sum. Hidden pixels are neighbours of each other: their values solve a linear system, here by
    conjugate gradients. An image of which nothing is seen becomes the mean of its channels.

    Args:
        noise: standard deviation of the Gaussian noise.
        seed: of the noise, which is the same for all images.

    Raises:
        OptionsError: ``noise`` is negative.
    """
    if noise < 0:
        raise OptionsError(f"noise must be 0 or more, not {noise}.")

    def impute(images: Tensor, hidden: Tensor) -> Tensor:
        blank = hidden.flatten(1).all(1)
        solved = _from_neighbours(images, hidden & ~blank[:, None, None])
        solved = torch.where(blank[:, None, None, None], images.mean((2, 3), keepdim=True), solved)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(images.shape[1:], generator=generator, dtype=torch.float32).to(images)
        return torch.where(hidden[:, None], solved + noise * drawn, images)

    return impute


def _from_neighbours(images: Tensor, hidden: Tensor) -> Tensor:
    """The solution x of x = Σ w x_neighbour / Σ w at hidden pixels, (M, C, H, W); elsewhere the images."""
    channels = images.shape[1]
    kernel = images.new_tensor([_DIAGONAL, _STRAIGHT, _DIAGONAL, _STRAIGHT, 0, _STRAIGHT, _DIAGONAL, _STRAIGHT])
    kernel = torch.cat([kernel, kernel[:1]]).reshape(1, 1, 3, 3).expand(channels, 1, 3, 3)
    inside = hidden[:, None].to(images)

    def around(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel, padding=1, groups=channels)

    total = around(torch.ones_like(images[:1]))

    def system(values: Tensor) -> Tensor:
        return inside * (total * values - around(values))  # symmetric, positive where something is seen

    seen = images * (1 - inside)
    wanted = inside * around(seen)
    found, rest = torch.zeros_like(images), wanted
    direction, size = rest, rest.square().sum((2, 3), keepdim=True)
    least = size * _PRECISION**2
    for _ in range(_MOST_ROUNDS):
        if bool((size <= least).all()):
            break
        ahead = system(direction)
        along = (direction * ahead).sum((2, 3), keepdim=True)
        step = torch.where(along > 0, size / along.clamp_min(torch.finfo(along.dtype).tiny), 0)
        found, rest = found + step * direction, rest - step * ahead
        before, size = size, rest.square().sum((2, 3), keepdim=True)
        again = torch.where(before > 0, size / before.clamp_min(torch.finfo(before.dtype).tiny), 0)
        direction = rest + again * direction
    return seen + inside * found


WAYS: dict[str, Callable[[], Imputation]] = {"mean": mean_of_image, "blur": blur, "road": noisy_linear}
"""What stands in the place of hidden pixels, by a word."""
