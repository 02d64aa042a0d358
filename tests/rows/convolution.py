"""Convolutions and linear layers."""

from __future__ import annotations

import torch
from cases import CHANNELS, Apply, Row, family, line, tokens, volume
from torch import nn

from agf_fx.ir.vocabulary import Family

aten = torch.ops.aten


def on_lines(layer: nn.Module) -> nn.Module:
    """A layer of one spatial dimension, behind (N, CHANNELS, HEIGHT · WIDTH)."""
    return nn.Sequential(Apply(line), layer)


def on_volumes(layer: nn.Module) -> nn.Module:
    """A layer of three spatial dimensions, behind (N, 2, CHANNELS / 2, HEIGHT, WIDTH)."""
    return nn.Sequential(Apply(volume), layer)


ROWS: list[Row] = [
    *family(
        aten.conv2d.default,
        Family.CONVOLUTION,
        {
            "3×3 with bias": lambda: nn.Conv2d(CHANNELS, 5, 3),
            "stride with remainder, no bias": lambda: nn.Conv2d(CHANNELS, 3, 3, stride=2, bias=False),
            "stride and padding": lambda: nn.Conv2d(CHANNELS, 3, 3, stride=(2, 3), padding=(1, 2)),
            "dilation": lambda: nn.Conv2d(CHANNELS, 3, 3, dilation=2, padding=2, bias=False),
            "groups": lambda: nn.Conv2d(CHANNELS, 6, 3, groups=2, padding=1),
            "depthwise": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS, padding=1),
            "asymmetric kernel": lambda: nn.Conv2d(CHANNELS, 3, (1, 4), stride=(2, 1), padding=(0, 2)),
            "padding by name": lambda: nn.Conv2d(CHANNELS, 3, 3, padding="same", dilation=(1, 2)),
            "no padding by name": lambda: nn.Conv2d(CHANNELS, 3, 3, padding="valid"),
            "even kernel that keeps the size": lambda: nn.Conv2d(CHANNELS, 3, (2, 4), padding="same"),
            "padding by zeros that are named": lambda: nn.Conv2d(CHANNELS, 3, 3, padding=1, padding_mode="zeros"),
            "padding by reflection": lambda: nn.Conv2d(CHANNELS, 3, 3, padding=2, padding_mode="reflect"),
            "padding by repetition": lambda: nn.Conv2d(CHANNELS, 3, 3, padding=(0, 1), padding_mode="replicate"),
            "padding around": lambda: nn.Conv2d(CHANNELS, 3, 3, stride=2, padding=1, padding_mode="circular"),
            "kernel as large as the map": lambda: nn.Conv2d(CHANNELS, 5, (7, 6)),
            "1×1": lambda: nn.Conv2d(CHANNELS, 2, 1),
            "1×1 with stride": lambda: nn.Conv2d(CHANNELS, 2, 1, stride=2),
        },
    ),
    *family(
        aten.conv1d.default,
        Family.CONVOLUTION,
        {
            "with bias": lambda: on_lines(nn.Conv1d(CHANNELS, 5, 3)),
            "stride with remainder": lambda: on_lines(nn.Conv1d(CHANNELS, 3, 4, stride=3, padding=1, bias=False)),
            "dilation and groups": lambda: on_lines(nn.Conv1d(CHANNELS, 6, 3, dilation=2, groups=2)),
            "even kernel that keeps the size": lambda: on_lines(nn.Conv1d(CHANNELS, 3, 4, padding="same")),
            "padding by reflection": lambda: on_lines(nn.Conv1d(CHANNELS, 3, 3, padding=1, padding_mode="reflect")),
            "pointwise": lambda: on_lines(nn.Conv1d(CHANNELS, 3, 1)),
        },
    ),
    *family(
        aten.conv3d.default,
        Family.CONVOLUTION,
        {
            "with bias": lambda: on_volumes(nn.Conv3d(2, 3, 2)),
            "stride with remainder": lambda: on_volumes(nn.Conv3d(2, 3, (1, 3, 3), (1, 2, 3), (0, 1, 0), bias=False)),
            "dilation and groups": lambda: on_volumes(nn.Conv3d(2, 4, (2, 3, 2), dilation=(1, 2, 1), groups=2)),
            "even kernel that keeps the size": lambda: on_volumes(nn.Conv3d(2, 2, (2, 1, 4), padding="same")),
            "pointwise": lambda: on_volumes(nn.Conv3d(2, 3, 1)),
        },
    ),
    *family(
        aten.conv_transpose2d.input,
        Family.CONVOLUTION,
        {
            "with bias": lambda: nn.ConvTranspose2d(CHANNELS, 3, 3),
            "stride and padding": lambda: nn.ConvTranspose2d(CHANNELS, 3, 3, stride=2, padding=1, bias=False),
            "output padding": lambda: nn.ConvTranspose2d(CHANNELS, 3, (3, 2), (2, 3), (1, 0), output_padding=(1, 2)),
            "output padding as wide as a stride": lambda: nn.ConvTranspose2d(
                CHANNELS, 2, 2, stride=(1, 2), dilation=3, output_padding=(2, 2)
            ),
            "groups and dilation": lambda: nn.ConvTranspose2d(CHANNELS, 6, 3, 2, 1, groups=2, dilation=2),
            "depthwise": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 4, 2, 1, groups=CHANNELS),
            "1×1": lambda: nn.ConvTranspose2d(CHANNELS, 2, 1),
            "1×1 with stride": lambda: nn.ConvTranspose2d(CHANNELS, 2, 1, stride=2, output_padding=1),
        },
    ),
    *family(
        aten.conv_transpose1d.default,
        Family.CONVOLUTION,
        {
            "with bias": lambda: on_lines(nn.ConvTranspose1d(CHANNELS, 3, 3)),
            "stride, padding, output padding": lambda: on_lines(
                nn.ConvTranspose1d(CHANNELS, 2, 4, 3, 2, 1, bias=False)
            ),
            "groups and dilation": lambda: on_lines(nn.ConvTranspose1d(CHANNELS, 6, 3, groups=2, dilation=2)),
        },
    ),
    *family(
        aten.conv_transpose3d.input,
        Family.CONVOLUTION,
        {
            "with bias": lambda: on_volumes(nn.ConvTranspose3d(2, 2, 2)),
            "stride, padding, output padding": lambda: on_volumes(
                nn.ConvTranspose3d(2, 2, (1, 3, 2), (1, 2, 2), (0, 1, 0), (0, 1, 1), bias=False)
            ),
            "groups and dilation": lambda: on_volumes(
                nn.ConvTranspose3d(2, 2, (1, 2, 2), groups=2, dilation=(1, 2, 1))
            ),
        },
    ),
    *family(
        aten.linear.default,
        Family.LINEAR,
        {
            "with bias": lambda: nn.Sequential(Apply(lambda x: x.mean((2, 3))), nn.Linear(CHANNELS, 5)),
            "no bias": lambda: nn.Sequential(Apply(lambda x: x.mean((2, 3))), nn.Linear(CHANNELS, 5, bias=False)),
            "on tokens": lambda: nn.Sequential(Apply(tokens), nn.Linear(CHANNELS, 3)),
        },
    ),
]
