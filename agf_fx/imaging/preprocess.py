"""From an RGB picture to the tensor a network expects, and to the pixels it then sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from agf_fx.errors import ImageError, InputError, OptionsError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.449,), (0.226,)  # the means of these

_MAX_RESIZED_PIXELS = 100_000_000


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side, cut out the centre, scale to 0..1, normalise per channel.

    Attributes:
        resize: length in pixels that the shorter side is resized to; None leaves the size.
        crop: (height, width) of the centre that is cut out; a smaller image is padded with black. None keeps all.
        mean: subtracted per channel, in units of the 0..1 scale; three numbers, or one for networks of grey pictures.
        std: divided by per channel, in units of the 0..1 scale; as many.
        interpolation: name of the resampling filter: nearest, bilinear, bicubic, box, hamming or lanczos.
    """

    resize: int | None = 224
    crop: tuple[int, int] | None = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        """Refuse values that no preprocessing can have (`OptionsError`)."""
        for size in (self.resize, *(self.crop or ())):
            if size is not None and size < 1:
                raise OptionsError(f"an image size of {size} pixels is not possible; give 1 or more")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
                raise OptionsError(f"{name} must be three finite numbers (red, green, blue), or one, not {values}")
        if len(self.mean) != len(self.std):
            raise OptionsError(f"mean {self.mean} and std {self.std} are for different numbers of channels")
        if min(self.std) <= 0:
            raise OptionsError(f"std must be above zero in every channel, not {self.std}")
        names = [mode.value for mode in InterpolationMode]
        if self.interpolation not in names:
            raise OptionsError(f"unknown interpolation {self.interpolation!r}; choose from {', '.join(names)}")

    @property
    def channels(self) -> int:
        """How many channels the network's images have: 3 for colour, 1 for grey."""
        return len(self.mean)

    @classmethod
    def square(cls, size: int, *, mean: Sequence[float], std: Sequence[float]) -> Preprocessing:
        """Resize the shorter side to ``size`` and cut out the central ``size`` x ``size`` pixels."""
        return cls(resize=size, crop=(size, size), mean=tuple(mean), std=tuple(std))

    @classmethod
    def from_transforms(cls, transforms: Any) -> Preprocessing:
        """Take over a torchvision weights entry's own ``weights.transforms()``, exactly.

        Raises:
            OptionsError: ``transforms`` is not an image classification preset of torchvision.
        """
        try:
            (resize,) = transforms.resize_size
            (crop,) = transforms.crop_size
            mean, std = tuple(transforms.mean), tuple(transforms.std)
            interpolation = transforms.interpolation.value
        except (AttributeError, TypeError, ValueError) as error:
            raise OptionsError(
                f"{type(transforms).__name__} is not torchvision's ImageClassification preset; "
                "build a Preprocessing from its numbers"
            ) from error
        return cls(resize=resize, crop=(crop, crop), mean=mean, std=std, interpolation=interpolation)

    def describe(self) -> str:
        """The steps in words, on one line."""
        steps = [] if self.channels == 3 else ["turn to grey"]
        if self.resize is not None:
            steps.append(f"resize the shorter side to {self.resize} ({self.interpolation})")
        if self.crop is not None:
            steps.append(f"crop the centre {self.crop[0]}x{self.crop[1]}")
        steps += [
            "scale to 0..1",
            f"subtract mean {_numbers(self.mean)}",
            f"divide by std {_numbers(self.std)}",
        ]
        return ", ".join(steps)

    def prepare(self, image: Image.Image) -> tuple[torch.Tensor, np.ndarray]:
        """Preprocess one RGB picture.

        Args:
            image: Pillow image in mode ``"RGB"``, as `agf_fx.imaging.read.read_image` returns.

        Returns:
            The normalised image, float32 (channels, H, W), and the same pixels before normalisation, uint8 (H, W, 3):
            what the network sees, for display.

        Raises:
            ImageError: the picture is so long and thin that resizing its shorter side makes it huge.
        """
        seen = self._cut(image if self.channels == 3 else image.convert("L"), self.interpolation)
        pixels = np.array(seen.convert("RGB"), dtype=np.uint8)
        tensor = F.convert_image_dtype(F.pil_to_tensor(seen), torch.float32)
        return F.normalize(tensor, mean=list(self.mean), std=list(self.std)), pixels

    def prepare_masks(self, masks: np.ndarray) -> torch.Tensor:
        """Resize and crop masks of a picture as `prepare` does the picture, without mixing pixels: nearest neighbour.

        Args:
            masks: bool (K, H, W) of pixels of the picture, K zero or more.

        Returns:
            Bool (K, h, w), of the prepared picture's size; what is padded around the picture is False.

        Raises:
            InputError: ``masks`` is not of that shape.
            ImageError: the picture is so long and thin that resizing its shorter side makes it huge.
        """
        masks = np.asarray(masks)
        if masks.ndim != 3 or 0 in masks.shape[1:] or masks.dtype != bool:
            raise InputError(f"masks {masks.shape} of {masks.dtype} must be bool (K, H, W); give one mask an object")
        seen = [self._cut(Image.fromarray(mask), "nearest") for mask in masks]
        size = seen[0].size if seen else self._cut(Image.new("1", masks.shape[:0:-1]), "nearest").size
        return torch.from_numpy(np.array(seen, dtype=bool).reshape(-1, *size[::-1]))

    def _cut(self, image: Image.Image, interpolation: str) -> Image.Image:
        return self._crop(self._resize(image, interpolation))

    def _resize(self, image: Image.Image, interpolation: str) -> Image.Image:
        if self.resize is None:
            return image
        short, long = sorted(image.size)
        if self.resize * self.resize * (long / short) > _MAX_RESIZED_PIXELS:
            raise ImageError(
                f"{image.width}x{image.height} pixels is too long and thin to resize the shorter side to "
                f"{self.resize}; crop it first"
            )
        return F.resize(image, [self.resize], interpolation=InterpolationMode(interpolation))

    def _crop(self, image: Image.Image) -> Image.Image:
        return image if self.crop is None else F.center_crop(image, list(self.crop))


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
