"""Scenes of two different handwritten digits: images whose right explanation is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, max_pool2d, one_hot, pad

from agf_fx.data.handwriting import Split, handwritten_digits
from agf_fx.data.textures import textured_backgrounds, uniform, with_luma
from agf_fx.errors import OptionsError

CLASSES = 10
SMALLEST_SIZE = 48
_CHUNK = 128  # scenes drawn together; a fixed number, so that a longer series begins with the shorter one
_BOX = 9  # cells across the box of an 8x8 glyph: room for its rotation and slant
_GAP = 0.05  # between the boxes of the two digits, as a share of the image side


@dataclass(frozen=True, eq=False)
class Scenes:
    """A batch of N scenes of side S.

    Attributes:
        images: float32 (N, 3, S, S) in [0, 1], whole multiples of 1/255 (an 8-bit file keeps them exactly).
        labels: int64 (N, 2), the classes of the two digits, -1 for a digit that was left out.
        masks: bool (N, 2, S, S), the pixels of each digit: where its ink covers more than a quarter of the
            pixel, dilated by one pixel. The two masks of a scene are disjoint.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def multi_hot(self) -> Tensor:
        """Return which classes are in each scene, float32 (N, 10) of zeros and ones."""
        return one_hot(self.labels + 1, CLASSES + 1).amax(1)[:, 1:].float()


def digit_scenes(count: int, *, split: Split = "train", seed: int = 0, size: int = 64, absent: float = 0.0) -> Scenes:
    """Draw scenes of two different handwritten digits of random colour, size, slant and place.

    The handwriting is scikit-learn's ``load_digits`` (8x8 glyphs of real writers, enlarged). Its glyphs are
    in the order of the writers, so the parts are taken by position, with one writer's block between them left
    out: positions 0-1156 are ``"train"``, 1287-1796 ``"test"``. No writer is in both.

    The same arguments give the same bits, and the first scenes of a longer series are those of a shorter one.

    Args:
        count: number of scenes N, zero or more.
        split: whose handwriting, ``"train"`` or ``"test"``.
        seed: a number, zero or more; each seed and split has scenes of its own.
        size: image side S in pixels, at least 48.
        absent: probability in [0, 1] that a digit is left out (label -1, empty mask); for training.

    Returns:
        The scenes; see `Scenes` for shapes and units.

    Raises:
        OptionsError: an argument is out of its range.
        MissingDependencyError: scikit-learn is not installed.
    """
    _check_options(count, seed, size, absent)
    handwritten_digits(split)  # refuses an unknown split and a missing scikit-learn, also when count is zero
    chunks = [
        _draw_chunk(np.random.default_rng([seed, split == "test", number]), split, size, absent)
        for number in range(max(1, -(-count // _CHUNK)))
    ]
    images, labels, masks = (torch.cat(parts)[:count] for parts in zip(*chunks, strict=True))
    return Scenes(images.float() / 255, labels, masks)


def _check_options(count: int, seed: int, size: int, absent: float) -> None:
    for name, value, least in (("count", count, 0), ("seed", seed, 0), ("size", size, SMALLEST_SIZE)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise OptionsError(f"{name}={value!r} is not possible; give a whole number, {least} or more")
    if not 0 <= absent <= 1:
        raise OptionsError(f"absent={absent!r} is not a probability; give a number from 0 to 1")


def _draw_chunk(rng: np.random.Generator, split: Split, size: int, absent: float) -> tuple[Tensor, Tensor, Tensor]:
    """Draw ``_CHUNK`` scenes: uint8 images, labels, masks."""
    labels, glyphs = _draw_glyphs(rng, split)
    sides, centres = _place(rng)
    ink = _ink(rng, glyphs, sides, centres, size)
    left_out = uniform(rng, _CHUNK, 2) < absent
    ink[left_out] = 0
    image = textured_backgrounds(rng, _CHUNK, size)
    for k in range(2):
        image = torch.lerp(image, _light_colours(rng), ink[:, k : k + 1])
    masks = max_pool2d((ink > 0.25).float(), 3, stride=1, padding=1).bool()
    masks[:, 1] &= ~masks[:, 0]  # their boxes are apart, but a slanted stroke may leave its box by a pixel
    return (image * 255).round().to(torch.uint8), labels.masked_fill(left_out, -1), masks


def _draw_glyphs(rng: np.random.Generator, split: Split) -> tuple[Tensor, Tensor]:
    """Two different classes a scene, (N, 2), and a glyph of each, (N, 2, 8, 8)."""
    ink, starts = handwritten_digits(split)
    first = rng.integers(CLASSES, size=_CHUNK)
    labels = np.stack([first, (first + rng.integers(1, CLASSES, size=_CHUNK)) % CLASSES], axis=1)
    chosen = rng.integers(starts[labels], starts[labels + 1])
    return torch.from_numpy(labels), torch.from_numpy(ink[chosen])


def _place(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Sides (N, 2) and centres (N, 2, xy) of two square boxes, as shares of the image side.

    Along one axis, x or y by chance, the boxes stand apart in either order; along the other they are free.
    """
    sides = uniform(rng, _CHUNK, 2, low=0.3, high=0.5)
    sides = sides * ((1 - _GAP) / sides.sum(1, keepdim=True)).clamp_max(1)
    slack = 1 - _GAP - sides.sum(1, keepdim=True)
    starts = slack * uniform(rng, _CHUNK, 2).sort(dim=1).values
    second_is_behind = torch.from_numpy(rng.integers(2, size=(_CHUNK, 1))).bool()
    behind = torch.cat([~second_is_behind, second_is_behind], dim=1)
    apart = starts.gather(1, behind.long()) + behind * (sides.flip(1) + _GAP) + sides / 2
    free = sides / 2 + (1 - sides) * uniform(rng, _CHUNK, 2)
    horizontal = torch.from_numpy(rng.integers(2, size=(_CHUNK, 1, 1))).bool()
    centres = torch.where(horizontal, torch.stack([apart, free], dim=2), torch.stack([free, apart], dim=2))
    return sides, centres


def _ink(rng: np.random.Generator, glyphs: Tensor, sides: Tensor, centres: Tensor, size: int) -> Tensor:
    """Draw each glyph into its box: the share of each pixel covered by ink, (N, 2, S, S) in [0, 1]."""
    count = 2 * _CHUNK
    angle = uniform(rng, count, low=-0.25, high=0.25)  # radians, about 14 degrees
    slant = uniform(rng, count, low=-0.15, high=0.15)
    padded = pad(glyphs.reshape(count, 1, 8, 8), [1, 1, 1, 1])
    zoom = _BOX / padded.shape[-1] / sides.reshape(count)  # image coordinates to glyph coordinates
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos + slant * sin, slant * cos - sin, sin, cos], dim=1).view(count, 2, 2)
    linear = turn * zoom.view(count, 1, 1)
    shift = -linear @ (2 * centres.reshape(count, 2, 1) - 1)
    grid = affine_grid(torch.cat([linear, shift], dim=2), [count, 1, size, size], align_corners=False)
    smooth = grid_sample(padded, grid, mode="bicubic", align_corners=False)
    pen = uniform(rng, count, 1, 1, 1, low=0.25, high=0.45)  # a lower threshold is a thicker pen
    edge = ((smooth - pen) / 0.3).clamp(0, 1)
    return (edge * edge * (3 - 2 * edge)).view(_CHUNK, 2, size, size)


def _light_colours(rng: np.random.Generator) -> Tensor:
    return with_luma(uniform(rng, _CHUNK, 3, 1, 1), uniform(rng, _CHUNK, 1, 1, 1, low=0.7, high=0.95))
