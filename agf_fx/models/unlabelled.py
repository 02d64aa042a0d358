"""One small network with three heads: trained without labels on rotations or on clusters, and with labels.

All take float32 images (N, 3, 64, 64), normalised from [0, 1] as ``(image - DIGITS_MEAN) / DIGITS_STD``. Only
``digits-supervised`` has seen which digits there are.
"""

from __future__ import annotations

from torch import Tensor, nn

from agf_fx.models.digits import DIGITS_CLASSES

ROTATIONS = ("0°", "90°", "180°", "270°")
CLUSTERS = tuple(f"cluster {number}" for number in range(16))
WIDTHS = (16, 24, 40, 56, 64)
"""Channels of the five blocks, whose maps are 32, 32, 16, 8 and 8 pixels wide."""


def digits_rotation() -> DigitsSmall:
    """Build the network that tells how a scene was turned, with fresh weights, in training mode."""
    return DigitsSmall(len(ROTATIONS))


def digits_clusters() -> DigitsSmall:
    """Build the network that tells clusters of scenes apart, with fresh weights, in training mode."""
    return DigitsSmall(len(CLUSTERS))


def digits_supervised() -> DigitsSmall:
    """Build the same network with a logit for each digit, with fresh weights, in training mode."""
    return DigitsSmall(len(DIGITS_CLASSES))


class DigitsSmall(nn.Module):
    """Five blocks of a 3x3 convolution, batch norm and ReLU, global average pooling and a linear layer.

    The first convolution has a stride of 2, and max pools follow the second and the third block.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.block1 = _block(3, WIDTHS[0], stride=2)
        self.block2 = _block(WIDTHS[0], WIDTHS[1])
        self.block3 = _block(WIDTHS[1], WIDTHS[2])
        self.block4 = _block(WIDTHS[2], WIDTHS[3])
        self.block5 = _block(WIDTHS[3], WIDTHS[4])
        self.maxpool = nn.MaxPool2d(kernel_size=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(WIDTHS[4], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) for normalised images (N, 3, H, W)."""
        x = self.maxpool(self.block2(self.block1(images)))
        x = self.maxpool(self.block3(x))
        x = self.block5(self.block4(x))
        return self.fc(self.avgpool(x).flatten(1))


def _block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
