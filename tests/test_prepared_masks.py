"""Masks are resized and cropped as their pictures are: a marked block is followed through both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from agf_fx.errors import ImageError, InputError
from agf_fx.imaging.preprocess import Preprocessing

SIZES = [(40, 30), (30, 40), (64, 64), (7, 5), (300, 20), (33, 101)]  # (height, width)
CUTS = [
    {"resize": None, "crop": None},
    {"resize": None, "crop": (24, 36)},
    {"resize": None, "crop": (128, 6)},
    {"resize": 57, "crop": None},
    {"resize": 32, "crop": (28, 28)},
    {"resize": 16, "crop": (16, 16)},
    {"resize": 64, "crop": (31, 90)},
    {"resize": 20, "crop": (40, 50)},
]
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def blocks(height, width):
    """A block off the centre, one in a corner, and all pixels."""
    masks = np.zeros((3, height, width), dtype=bool)
    masks[0, height // 4 : height // 2, width // 3 : -(-2 * width // 3)] = True
    masks[1, : height // 3, -(width // 3) :] = True
    masks[2] = True
    return masks


def seen(mask, **options):
    """Brightness 0..1 (h, w) of the mask's picture, white on black, as `prepare` prepares it."""
    preprocessing = Preprocessing(mean=MEAN, std=STD, **options)
    tensor, _ = preprocessing.prepare(Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB"))
    return tensor[0] / 2 + 0.5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cut", CUTS)
def test_a_block_arrives_where_the_pictures_does(size, cut):
    masks = blocks(*size)
    prepared = Preprocessing(**cut).prepare_masks(masks)
    assert prepared.dtype == torch.bool
    for mask, arrived in zip(masks, prepared, strict=True):
        assert torch.equal(arrived, seen(mask, interpolation="nearest", **cut) > 0.5)
        blurred = seen(mask, interpolation="bilinear", **cut)
        assert arrived.shape == blurred.shape
        assert arrived[blurred > 0.99].all()  # inside
        assert not arrived[blurred < 0.01].any()  # outside, and what is padded
    assert torch.equal(Preprocessing(mean=(0.5,), std=(1.0,), **cut).prepare_masks(masks), prepared)
    none = Preprocessing(**cut).prepare_masks(masks[:0])
    assert none.shape == (0, *prepared.shape[1:])
    assert none.dtype == torch.bool


def test_nothing_changes_without_resizing_and_cropping():
    masks = blocks(7, 5)
    assert torch.equal(Preprocessing(resize=None, crop=None).prepare_masks(masks), torch.from_numpy(masks))
    turned = masks.transpose(0, 2, 1)  # not contiguous
    assert torch.equal(Preprocessing(resize=None, crop=None).prepare_masks(turned), torch.from_numpy(turned.copy()))


def test_masks_of_another_form_are_refused():
    for masks in (np.zeros((4, 4), bool), np.zeros((1, 4, 4), np.uint8), np.zeros((1, 0, 4), bool)):
        with pytest.raises(InputError, match=r"bool \(K, H, W\)"):
            Preprocessing().prepare_masks(masks)
    with pytest.raises(ImageError, match="long and thin"):
        Preprocessing().prepare_masks(np.zeros((1, 1, 60_000), bool))
