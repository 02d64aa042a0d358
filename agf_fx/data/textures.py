"""Random textured backgrounds: noise, clouds, blobs, stripes, gradients and checks of random scale."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R BT.601
BRIGHTEST_BACKGROUND = 0.45  # luma; digits start at 0.7, which keeps them readable everywhere
_OCTAVES = (3, 6, 12, 24)  # cells across the image


def luma(image: Tensor) -> Tensor:
    """Brightness of RGB images in [0, 1]: (..., 3, H, W) -> (..., 1, H, W)."""
    return (image * LUMA).sum(-3, keepdim=True)


def uniform(rng: np.random.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Float32 tensor of ``shape``, uniform in [low, high)."""
    return low + (high - low) * torch.from_numpy(rng.random(shape, dtype=np.float32))


def with_luma(colour: Tensor, target: Tensor) -> Tensor:
    """Darken RGB colours (N, 3, 1, 1), or mix them with white, to the luma ``target`` (N, 1, 1, 1)."""
    now = luma(colour).clamp(1e-3, 1 - 1e-3)
    darker = colour * (target / now)
    lighter = colour + (1 - colour) * ((target - now) / (1 - now))
    return torch.where(now > target, darker, lighter)


def textured_backgrounds(rng: np.random.Generator, count: int, size: int) -> Tensor:
    """Draw ``count`` backgrounds, each of a random kind, colour and scale.

    Args:
        rng: where all randomness comes from.
        count: number of images N.
        size: side S in pixels.

    Returns:
        Float32 (N, 3, S, S) in [0, 1] whose luma nowhere exceeds ``BRIGHTEST_BACKGROUND``.
    """
    clouds = _multi_scale_noise(rng, count, size)
    along, across = _rotated_coordinates(rng, count, size)
    grey = clouds[:, :1]  # one field for all three channels
    warp = uniform(rng, count, 1, 1, 1, high=1.5) * grey
    wave_1 = torch.sin(along * _angular_frequency(rng, count) + warp)
    wave_2 = torch.sin(across * _angular_frequency(rng, count) + warp)
    kinds = torch.stack(
        [
            0.5 + 0.3 * grey,  # clouds
            torch.sigmoid(5 * grey),  # blobs
            0.5 + 0.5 * wave_1,  # stripes
            0.5 + 0.5 * along + 0.1 * warp,  # gradient
            torch.sigmoid(5 * wave_1 * wave_2),  # checks
        ]
    )
    kind = torch.from_numpy(rng.integers(1 + len(kinds), size=count))
    two_colours = kinds[(kind - 1).clamp_min(0), torch.arange(count)]
    coloured_noise = 0.5 + 0.3 * clouds
    mix = torch.where((kind == 0).view(count, 1, 1, 1), coloured_noise, two_colours).clamp(0, 1)
    grain = uniform(rng, count, 1, 1, 1, high=0.16) * uniform(rng, count, 3, size, size, low=-0.5, high=0.5)
    image = torch.lerp(_dark_colours(rng, count), _dark_colours(rng, count), mix) + grain
    return _limit_luma(image.clamp(0, 1))


def _multi_scale_noise(rng: np.random.Generator, count: int, size: int) -> Tensor:
    """Smooth noise (N, 3, S, S) of zero mean and unit variance; the weight of each octave is random."""
    noise = torch.zeros(count, 3, size, size)
    for cells in _OCTAVES:
        coarse = uniform(rng, count, 3, cells, cells, low=-1)
        weight = uniform(rng, count, 1, 1, 1) ** 2
        noise += weight * interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    mean, std = noise.mean((2, 3), keepdim=True), noise.std((2, 3), keepdim=True)
    return (noise - mean) / std.clamp_min(1e-3)


def _rotated_coordinates(rng: np.random.Generator, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Pixel coordinates (N, 1, S, S) along and across a random direction, in about [-1, 1]."""
    axis = torch.linspace(-1, 1, size)
    x, y = axis.view(1, 1, 1, size), axis.view(1, 1, size, 1)
    angle = uniform(rng, count, 1, 1, 1, high=2 * math.pi)
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def _angular_frequency(rng: np.random.Generator, count: int) -> Tensor:
    """From 1.5 to 12 periods across the image, in radians per half image."""
    return math.pi * uniform(rng, count, 1, 1, 1, low=1.5, high=12)


def _dark_colours(rng: np.random.Generator, count: int) -> Tensor:
    return with_luma(uniform(rng, count, 3, 1, 1), uniform(rng, count, 1, 1, 1, low=0.04, high=0.42))


def _limit_luma(image: Tensor) -> Tensor:
    return image * (BRIGHTEST_BACKGROUND / luma(image).clamp_min(1e-3)).clamp_max(1)
