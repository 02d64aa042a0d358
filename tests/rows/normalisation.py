"""Normalisations, softmax, length, and what stands behind the head."""

from __future__ import annotations

import torch
from cases import CHANNELS, HEIGHT, WIDTH, Apply, Row, batch_norm, family, tokens
from torch import Tensor, nn

from agf_fx.ir.vocabulary import Family

aten = torch.ops.aten
F = torch.nn.functional


def scaled(norm: nn.Module) -> nn.Module:
    """A norm with scales of either sign, and shifts."""
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, -2, 2)
    return norm


class StandardisedConvolution(nn.Conv2d):
    """Of weights with mean 0 and deviation 1 per output channel, as in BiT."""

    def __init__(self) -> None:
        super().__init__(CHANNELS, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (deviation + 1e-5), self.bias)


ROWS: list[Row] = [
    *family(
        aten.batch_norm.default,
        Family.PASS_THROUGH,
        {
            "affine": batch_norm(nn.BatchNorm2d, affine=True),
            "not affine": batch_norm(nn.BatchNorm2d, affine=False),
            "of vectors": lambda: nn.Sequential(
                Apply(lambda x: x.mean((2, 3))), batch_norm(nn.BatchNorm1d, affine=True)()
            ),
            "of sequences": lambda: nn.Sequential(nn.Flatten(2), batch_norm(nn.BatchNorm1d, affine=True)()),
            "of volumes": lambda: nn.Sequential(
                Apply(lambda x: x.unsqueeze(2)), batch_norm(nn.BatchNorm3d, affine=True)()
            ),
            "function": lambda: Apply(lambda x, c: F.batch_norm(x, c - 0.5, c), torch.rand(CHANNELS) + 0.3),
            "instance norm with statistics": batch_norm(
                lambda *args, **more: nn.InstanceNorm2d(*args, track_running_stats=True, **more), affine=False
            ),
            "affine instance norm with statistics": batch_norm(
                lambda *args, **more: nn.InstanceNorm2d(*args, track_running_stats=True, **more), affine=True
            ),
        },
    ),
    *family(
        aten.layer_norm.default,
        Family.PASS_THROUGH,
        {
            "of rows": lambda: scaled(nn.LayerNorm(WIDTH)),
            "of maps, not affine": lambda: nn.LayerNorm([HEIGHT, WIDTH], elementwise_affine=False),
            "of samples": lambda: scaled(nn.LayerNorm([CHANNELS, HEIGHT, WIDTH], eps=0.1)),
            "no shift": lambda: scaled(nn.LayerNorm(WIDTH, bias=False)),
            "of tokens": lambda: nn.Sequential(Apply(tokens), scaled(nn.LayerNorm(CHANNELS))),
            "channels last": lambda: Apply(
                lambda x, c: F.layer_norm(x.permute(0, 2, 3, 1), (CHANNELS,), c, c).permute(0, 3, 1, 2),
                torch.rand(CHANNELS),
            ),
            "tokens first": lambda: Apply(
                lambda x: F.layer_norm(x.flatten(2).permute(2, 0, 1), (CHANNELS,)).transpose(0, 1)
            ),
        },
    ),
    *family(
        aten.group_norm.default,
        Family.PASS_THROUGH,
        {
            "groups": lambda: scaled(nn.GroupNorm(2, CHANNELS)),
            "not affine": lambda: nn.GroupNorm(1, CHANNELS, affine=False),
            "of vectors": lambda: nn.Sequential(Apply(lambda x: x.mean((2, 3))), scaled(nn.GroupNorm(2, CHANNELS))),
            "instance norm": lambda: nn.InstanceNorm2d(CHANNELS),
            "affine instance norm": lambda: scaled(nn.InstanceNorm2d(CHANNELS, affine=True)),
            "instance norm of sequences": lambda: nn.Sequential(nn.Flatten(2), nn.InstanceNorm1d(CHANNELS)),
        },
    ),
    *family(
        aten.rms_norm.default,
        Family.PASS_THROUGH,
        {
            "of rows": lambda: scaled(nn.RMSNorm(WIDTH)),
            "of maps, not affine": lambda: nn.RMSNorm([HEIGHT, WIDTH], eps=0.1, elementwise_affine=False),
        },
    ),
    *family(
        aten.softmax.int,
        Family.SOFTMAX,
        {
            "over channels": lambda: nn.Softmax(1),
            "over rows": lambda: Apply(lambda x: torch.softmax(3 * x, -1)),
            "Softmax2d": nn.Softmax2d,
            "Softmin": lambda: nn.Softmin(2),
            "dtype given": lambda: Apply(lambda x: F.softmax(x, 1, dtype=torch.float64)),
            "special": lambda: Apply(lambda x: torch.special.softmax(x, 1)),
        },
    ),
    *family(
        aten.conv2d.default,
        Family.CONVOLUTION,
        {
            "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(CHANNELS, 3, 3)),
            "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(CHANNELS, 3, 3)),
            "weights standardised": StandardisedConvolution,
        },
    ),
    *family(
        aten.linalg_vector_norm.default,
        Family.PROPORTIONAL,
        {
            "of channels": lambda: Apply(lambda x: x.norm(dim=1)),
            "of maps": lambda: Apply(lambda x: torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)),
        },
    ),
    *family(
        aten.linalg_vector_norm.default,
        Family.PROPORTIONAL,
        {
            "behind a gate": lambda: Apply(lambda x: x * torch.sigmoid(x.norm(dim=(2, 3), keepdim=True))),
            "dimensions lost": lambda: Apply(lambda x: x * torch.sigmoid(torch.linalg.vector_norm(x, dim=-3)[:, None])),
            "zero vectors": lambda: Apply(lambda x: x * torch.sigmoid((x.relu() * 0).norm(dim=1, keepdim=True))),
            "Frobenius": lambda: Apply(lambda x: x / (1 + torch.norm(x, p="fro", dim=1, keepdim=True))),
        },
        on_gate=True,
    ),
    *[
        Row(op, "behind the head", kind, build, behind_head=True)
        for op, kind, build in (
            # Scaled, or beside logits: what stands last is left out of explanations.
            (aten.sigmoid.default, Family.PASS_THROUGH, lambda: Apply(lambda y: 2 * torch.sigmoid(y))),
            (aten.softmax.int, Family.SOFTMAX, lambda: Apply(lambda y: 2 * y.softmax(-1))),
            (aten.log_softmax.int, Family.GRADIENT_ONLY, lambda: Apply(lambda y: y * 0.5 + y.log_softmax(1))),
        )
    ],
]
