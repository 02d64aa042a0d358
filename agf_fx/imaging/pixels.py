"""Pixels to display beside a map, from whatever form the user holds them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from agf_fx.errors import InputError


def display_pixels(batch: torch.Tensor, images: Any = None) -> np.ndarray:
    """Pixels of every image of a batch, ready to be shown.

    Args:
        batch: (N, 3, H, W) or (N, 1, H, W) float, the images that were explained.
        images: what to show for them, of the same height and width: (N, H, W, 3) uint8 or float 0..1,
            (N, 3, H, W) uint8 or float 0..1 (tensors or arrays), or a sequence of N Pillow images or of N such arrays;
            grey ones as (N, H, W), or with one channel in either place.
            None shows ``batch`` itself, each image stretched from its smallest to its largest value.

    Returns:
        (N, H, W, 3) uint8.

    Raises:
        InputError: ``images`` has another shape or other values than these, or is missing for a batch whose
            channels are not colours.
    """
    if images is None:
        return np.stack([_stretch(image) for image in _colours(batch)])
    pixels = _channels_last(_coloured(_stack(images), tuple(batch.shape[2:])))
    expected = (batch.shape[0], *batch.shape[2:], 3)
    if pixels.shape != expected:
        raise InputError(f"images to display have shape {pixels.shape}; give one of {expected} for this batch")
    return pixels if pixels.dtype == np.uint8 else _from_unit(pixels)


def _colours(batch: torch.Tensor) -> np.ndarray:
    """(N, H, W, 3) float64 values of a batch with one or three channels."""
    channels = batch.shape[1]
    if channels not in (1, 3):
        raise InputError(f"images of {channels} channels have no colours; give the pixels to display with images=")
    return batch.detach().cpu().double().permute(0, 2, 3, 1).numpy().repeat(3 // channels, axis=-1)


def _stack(images: Any) -> np.ndarray:
    if isinstance(images, torch.Tensor):
        return images.detach().cpu().numpy()
    if isinstance(images, np.ndarray):
        return images
    try:
        return np.stack([_array(image) for image in images])
    except (TypeError, ValueError) as error:
        raise InputError(f"images to display cannot be stacked ({error}); give one size for all") from error


def _array(image: Any) -> np.ndarray:
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    return image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)


def _coloured(pixels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Grey pixels of height and width ``size`` with three equal channels, others as they are."""
    if pixels.shape[1:] == size:
        pixels = pixels[..., None]
    elif pixels.shape[1:] == (1, *size):
        pixels = np.moveaxis(pixels, 1, -1)
    return pixels.repeat(3, axis=-1) if pixels.shape[1:] == (*size, 1) else pixels


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 4 and pixels.shape[-1] != 3 and pixels.shape[1] == 3:
        return np.moveaxis(pixels, 1, -1)
    return pixels


def _stretch(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) of any range to uint8; an image of one value becomes mid grey."""
    low, high = float(image.min()), float(image.max())
    if high == low:
        return np.full(image.shape, 128, dtype=np.uint8)
    return np.rint((image - low) * (255.0 / (high - low))).astype(np.uint8)


def _from_unit(pixels: np.ndarray) -> np.ndarray:
    if not np.issubdtype(pixels.dtype, np.floating) or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(
            f"images to display are {pixels.dtype} from {pixels.min():g} to {pixels.max():g}; "
            "give uint8, or floats from 0 to 1"
        )
    return np.rint(pixels.astype(np.float64) * 255.0).astype(np.uint8)
