"""Images and maps of any number of dimensions, in a form that a page can show."""

from __future__ import annotations

import math

import numpy as np
import torch

from agf_fx.errors import InputError

MAX_SLICES = 9
"""Slices of a volume drawn on one sheet, spread evenly over it."""


def channels_first(images: torch.Tensor, spatial: tuple[int, ...]) -> torch.Tensor:
    """Images (N, ...) as (N, C, *spatial), where ``spatial`` is the shape of their maps; C is 1 where there are none.

    Raises:
        InputError: no dimension of the images can be the one that maps sum over.
    """
    shape = tuple(images.shape[1:])
    if shape == spatial:
        return images[:, None]
    for dim in range(len(shape)):
        if shape[:dim] + shape[dim + 1 :] == spatial:
            return images.movedim(1 + dim, 1)
    raise InputError(f"maps of shape {spatial} are not those of images of shape {shape}; give the images explained")


def sheet(volume: np.ndarray) -> np.ndarray:
    """A map or grey volume (..., H, W) as one picture: up to `MAX_SLICES` slices side by side, in reading order."""
    slices = volume.reshape(-1, *volume.shape[-2:])
    chosen = slices[np.unique(np.linspace(0, len(slices) - 1, min(MAX_SLICES, len(slices))).round().astype(int))]
    columns = math.ceil(math.sqrt(len(chosen)))
    rows = math.ceil(len(chosen) / columns)
    height, width = chosen.shape[1:]
    page = np.zeros((rows * height, columns * width), dtype=volume.dtype)
    for position, one in enumerate(chosen):
        top, left = position // columns * height, position % columns * width
        page[top : top + height, left : left + width] = one
    return page


def grey(image: np.ndarray) -> np.ndarray:
    """A picture (H, W) of any range as pixels (H, W, 3) uint8, stretched from its smallest to its largest value."""
    low, high = float(image.min()), float(image.max())
    level = (image - low) * (255.0 / (high - low)) if high > low else np.full(image.shape, 128.0)
    return np.rint(level).astype(np.uint8)[..., None].repeat(3, axis=-1)
