"""Pooling, means and resampling."""

from __future__ import annotations

import operator

import torch
from cases import CHANNELS, HEIGHT, Apply, Row, family, line, volume
from torch import nn

from agf_fx.ir.vocabulary import Family

aten = torch.ops.aten
F = nn.functional

ROWS: list[Row] = [
    *family(
        aten.max_pool2d_with_indices.default,
        Family.SELECTION,
        {
            "with remainder": lambda: nn.MaxPool2d(2),
            "overlapping and padded": lambda: nn.MaxPool2d(3, stride=2, padding=1),
            "ceil_mode": lambda: nn.MaxPool2d(2, ceil_mode=True),
            "dilated": lambda: nn.MaxPool2d((2, 3), stride=1, dilation=(3, 2)),
            "with indices": lambda: Apply(lambda x: F.max_pool2d(x, 3, 2, return_indices=True)[0]),
            "of a line": lambda: Apply(lambda x: F.max_pool1d(line(x), 3, stride=2, padding=1)),
            "of a line, dilated, ceil_mode": lambda: Apply(
                lambda x: F.max_pool1d(line(x), 4, stride=3, dilation=2, ceil_mode=True)
            ),
            "of a line, with indices": lambda: Apply(lambda x: F.max_pool1d(line(x), 3, return_indices=True)[0]),
        },
    ),
    Row(operator.getitem, "of a pooling's pair", Family.PASS_THROUGH, lambda: nn.MaxPool2d(2)),
    *family(
        aten.max_pool3d_with_indices.default,
        Family.SELECTION,
        {
            "with remainder": lambda: Apply(lambda x: F.max_pool3d(volume(x), 2)),
            "overlapping and padded": lambda: Apply(lambda x: F.max_pool3d(volume(x), (1, 3, 3), 2, (0, 1, 1))),
            "ceil_mode, dilated": lambda: Apply(
                lambda x: F.max_pool3d(volume(x), (2, 2, 2), (1, 2, 2), dilation=(1, 2, 1), ceil_mode=True)
            ),
            "with indices": lambda: Apply(lambda x: F.max_pool3d(volume(x), 2, return_indices=True)[0]),
        },
    ),
    *family(
        aten.adaptive_max_pool2d.default,
        Family.SELECTION,
        {
            "uneven": lambda: nn.AdaptiveMaxPool2d((4, 5)),
            "one size kept": lambda: nn.AdaptiveMaxPool2d((None, 4)),
            "to a point": lambda: nn.AdaptiveMaxPool2d(1),
            "with indices": lambda: Apply(lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True)[0]),
            "of a line": lambda: Apply(lambda x: F.adaptive_max_pool1d(line(x), 5)),
        },
    ),
    *family(
        aten.adaptive_max_pool3d.default,
        Family.SELECTION,
        {
            "uneven": lambda: Apply(lambda x: F.adaptive_max_pool3d(volume(x), (1, 4, 5))),
            "to a point": lambda: Apply(lambda x: F.adaptive_max_pool3d(volume(x), 1)),
        },
    ),
    *family(
        aten.avg_pool2d.default,
        Family.AVERAGE,
        {
            "with remainder": lambda: nn.AvgPool2d(2),
            "padding counted": lambda: nn.AvgPool2d(3, stride=2, padding=1),
            "padding not counted": lambda: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
            "ceil_mode": lambda: nn.AvgPool2d((2, 4), ceil_mode=True),
            "divisor_override": lambda: nn.AvgPool2d(3, stride=1, divisor_override=5),
            "of a line": lambda: Apply(lambda x: F.avg_pool1d(line(x), 3)),
            "of a line, padding not counted, ceil_mode": lambda: Apply(
                lambda x: F.avg_pool1d(line(x), 4, 3, 2, ceil_mode=True, count_include_pad=False)
            ),
        },
    ),
    *family(
        aten.avg_pool3d.default,
        Family.AVERAGE,
        {
            "with remainder": lambda: Apply(lambda x: F.avg_pool3d(volume(x), 2)),
            "padding not counted, ceil_mode": lambda: Apply(
                lambda x: F.avg_pool3d(volume(x), 2, (1, 2, 3), 1, ceil_mode=True, count_include_pad=False)
            ),
            "divisor_override": lambda: Apply(lambda x: F.avg_pool3d(volume(x), (1, 3, 2), divisor_override=5)),
        },
    ),
    *family(
        aten.adaptive_avg_pool2d.default,
        Family.AVERAGE,
        {
            "uneven": lambda: nn.AdaptiveAvgPool2d((4, 5)),
            "one size kept": lambda: nn.AdaptiveAvgPool2d((None, 4)),
            "to a point": lambda: nn.AdaptiveAvgPool2d(1),
            "larger than the map": lambda: nn.AdaptiveAvgPool2d((9, 6)),
            "of a line": lambda: Apply(lambda x: F.adaptive_avg_pool1d(line(x), 5)),
            "interpolation by area": lambda: Apply(lambda x: F.interpolate(x, size=(3, 4), mode="area")),
        },
    ),
    *family(
        aten.adaptive_avg_pool3d.default,
        Family.AVERAGE,
        {
            "uneven": lambda: Apply(lambda x: F.adaptive_avg_pool3d(volume(x), (None, 4, 5))),
            "to a point": lambda: Apply(lambda x: F.adaptive_avg_pool3d(volume(x), 1)),
        },
    ),
    *family(
        aten.mean.dim,
        Family.AVERAGE,
        {
            "over space": lambda: Apply(lambda x: x.mean((2, 3))),
            "keepdim": lambda: Apply(lambda x: x.mean((-1, -2), keepdim=True)),
            "over channels": lambda: Apply(lambda x: x.mean(1)),
            "one dim": lambda: Apply(lambda x: x.mean(-1)),
            "over the sample": lambda: Apply(lambda x: x.mean((1, -1, 2), keepdim=True)),
        },
    ),
    *family(
        aten.sum.dim_IntList,
        Family.AVERAGE,
        {
            "over space": lambda: Apply(lambda x: x.sum((2, 3))),
            "keepdim": lambda: Apply(lambda x: x.sum((-1, 1), keepdim=True)),
            "one dim": lambda: Apply(lambda x: torch.sum(x, 1)),
            "over the sample": lambda: Apply(lambda x: x.sum(dim=(1, 2, 3), keepdim=True)),
        },
    ),
    *family(
        aten.amax.default,
        Family.PROPORTIONAL,
        {
            "over space": lambda: Apply(lambda x: x.amax((3, 2))),
            "keepdim": lambda: Apply(lambda x: torch.amax(x, 1, keepdim=True)),
            "over the sample": lambda: Apply(lambda x: x.amax((1, 2, 3), keepdim=True)),
            "max along a dimension": lambda: Apply(lambda x: x.max(1).values),
            "max along a dimension, kept": lambda: Apply(lambda x: torch.max(x, dim=-1, keepdim=True)[0]),
            "ties": lambda: Apply(lambda x: torch.relu(x).amax((2, 3))),
            "the least": lambda: Apply(lambda x: x.amin((2, 3))),
            "min along a dimension": lambda: Apply(lambda x: x.min(2)[0]),
        },
    ),
    *family(
        aten.upsample_bilinear2d.default,
        Family.AVERAGE,
        {
            "to a size": lambda: nn.Upsample(size=(9, 11), mode="bilinear"),
            "to a smaller size": lambda: nn.Upsample(size=(3, 5), mode="bilinear"),
            "by a factor": lambda: nn.Upsample(scale_factor=1.7, mode="bilinear"),
            "by two factors, corners aligned": lambda: Apply(
                lambda x: F.interpolate(x, scale_factor=(2, 1.3), mode="bilinear", align_corners=True)
            ),
            "by a factor that the sizes decide": lambda: Apply(
                lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True)
            ),
            "to another map's size": lambda: Apply(
                lambda x: F.interpolate(x[:, :, 1:5:2, :4], size=x.shape[-2:], mode="bilinear")
            ),
        },
    ),
    *family(
        aten.upsample_linear1d.default,
        Family.AVERAGE,
        {
            "to a size": lambda: Apply(lambda x: F.interpolate(line(x), size=50, mode="linear")),
            "by a factor": lambda: Apply(lambda x: F.interpolate(line(x), scale_factor=0.6, mode="linear")),
            "corners aligned": lambda: Apply(
                lambda x: F.interpolate(line(x), size=60, mode="linear", align_corners=True)
            ),
        },
    ),
    *family(
        aten.upsample_trilinear3d.default,
        Family.AVERAGE,
        {
            "to a size": lambda: Apply(lambda x: F.interpolate(volume(x), size=(3, 5, 8), mode="trilinear")),
            "by a factor, corners aligned": lambda: Apply(
                lambda x: F.interpolate(volume(x), scale_factor=1.5, mode="trilinear", align_corners=True)
            ),
        },
    ),
    *family(
        aten.col2im.default,
        Family.AVERAGE,
        {
            "patches as they were cut": lambda: nn.Sequential(nn.Unfold(2, stride=2), nn.Fold((6, 6), 2, stride=2)),
            "overlapping, padded and dilated": lambda: nn.Sequential(
                Apply(lambda x: x.flatten(1)[:, :120].view(-1, 12, 10)),
                nn.Fold((4, 5), (2, 3), dilation=(2, 1), padding=1, stride=(2, 1)),
            ),
        },
    ),
    *family(
        aten.index_select.default,
        Family.DATA_MOVEMENT,
        {
            "nearest, one dimension by a factor": lambda: nn.Upsample(scale_factor=(1, 1.5)),
            "nearest, by a factor that leaves a side as it is": lambda: nn.Upsample(scale_factor=(1.5, 1.1)),
            "nearest, of a line": lambda: Apply(lambda x: F.interpolate(line(x), size=60)),
        },
    ),
    *family(
        aten.index_select.default,
        Family.DATA_MOVEMENT,
        {
            "nearest, by a factor": lambda: nn.Upsample(scale_factor=2.5),
            "nearest, to a size": lambda: nn.Upsample(size=(9, 4)),
            "nearest, exactly": lambda: Apply(lambda x: F.interpolate(x, size=(10, 8), mode="nearest-exact")),
        },
        times=2,
    ),
    *family(
        aten.expand.default,
        Family.DATA_MOVEMENT,
        {
            "nearest, twice as large": lambda: nn.Upsample(scale_factor=2),
            "nearest, by two factors": lambda: Apply(lambda x: F.interpolate(x, size=(HEIGHT * 3, 12))),
            "nearest, of a volume": lambda: Apply(
                lambda x: F.interpolate(volume(x), size=(CHANNELS, HEIGHT, 12), mode="nearest")
            ),
        },
        times=2,
    ),
]
