"""Data movement."""

from __future__ import annotations

import torch
from cases import CHANNELS, HEIGHT, WIDTH, Apply, Row, family, line, volume
from torch import Tensor, nn

from agf_fx.ir.vocabulary import Family

aten = torch.ops.aten
F = nn.functional

CHOICE = torch.tensor([3, 0, 0, -1, 1])
GRID = torch.tensor([[0, 2, 3], [-1, 0, 2]])
MASK = torch.tensor([True, False, True, True])[:, None, None]


def from_list(x: Tensor) -> Tensor:
    """With a mask that the code itself writes."""
    return x[:, torch.tensor([True, False, True, True])]


def written(x: Tensor, place: tuple, y: Tensor | float) -> Tensor:
    x = x.clone()
    x[place] = y
    return x


def written_through_a_view(x: Tensor, y: Tensor) -> Tensor:
    x = x.clone()
    x.narrow(1, 0, 2).copy_(y[:, 2:])
    return x


ROWS: list[Row] = [
    *family(
        aten.reshape.default,
        Family.DATA_MOVEMENT,
        {
            "groups of channels": lambda: Apply(lambda x: x.view(-1, 2, CHANNELS // 2, HEIGHT, WIDTH)),
            "flatten": lambda: nn.Flatten(2),
            "unflatten": lambda: Apply(lambda x: x.unflatten(1, (2, -1))),
            "nn.Unflatten": lambda: nn.Unflatten(3, (3, 2)),
            "unsqueeze": lambda: Apply(lambda x: x.unsqueeze(-1)),
            "new dimension by None": lambda: Apply(lambda x: x[:, None]),
            "view by sizes": lambda: Apply(lambda x: x.view(x.shape[0], x.size(1), -1)),
        },
    ),
    *family(
        aten.reshape.default,
        Family.DATA_MOVEMENT,
        {
            "squeeze": lambda: Apply(lambda x: x.view(-1, 2, 84, 1).squeeze(-1)),
        },
        times=2,
    ),
    Row(
        aten.reshape.default,
        "squeeze all",
        Family.DATA_MOVEMENT,
        lambda: Apply(lambda x: x[:, :, :1].squeeze().view(-1, CHANNELS, 1, 3, 2)),
        times=2,
    ),
    Row(
        aten.constant_pad_nd.default,
        "a part of zeros written",
        Family.DATA_MOVEMENT,
        lambda: Apply(lambda x: written(torch.zeros_like(x), (slice(None), slice(1, 3)), x[:, 2:])),
    ),
    *family(
        aten.permute.default,
        Family.DATA_MOVEMENT,
        {
            "negative dims": lambda: Apply(lambda x: x.permute(0, -1, 1, 2)),
            "transpose": lambda: Apply(lambda x: x.transpose(1, -1)),
            "movedim": lambda: Apply(lambda x: x.movedim(1, -1)),
            "moveaxis of two": lambda: Apply(lambda x: x.moveaxis((1, 3), (3, 2))),
            "swapaxes": lambda: Apply(lambda x: x.swapaxes(-1, 1)),
            "einsum": lambda: Apply(lambda x: torch.einsum("nchw->nwhc", x)),
            "pixel shuffle": lambda: nn.PixelShuffle(2),
            "pixel unshuffle": lambda: Apply(lambda x: F.pixel_unshuffle(x[:, :, :6], 2)),
            "channel shuffle": lambda: nn.ChannelShuffle(2),
            "non-overlapping windows": lambda: Apply(lambda x: x.unfold(2, 3, 3)),
            "non-overlapping patches": lambda: Apply(lambda x: F.unfold(x[:, :, :6], 2, stride=2)),
            "quarter turn": lambda: Apply(lambda x: torch.rot90(x[..., :1], -1, (2, 3))),
        },
    ),
    *family(
        aten.cat.default,
        Family.DATA_MOVEMENT,
        {
            "three along channels, one twice": lambda: Apply(lambda x, y: torch.cat([x, y, x], 1)),
            "along the last dimension": lambda: Apply(lambda x, y: torch.cat((x, y), -1)),
            "with a constant": lambda: Apply(
                lambda x, y, c: torch.cat([x, c.expand_as(y), y], 2), torch.rand(1, 1, 1, 6)
            ),
            "stack": lambda: Apply(lambda x, y: torch.stack([x, y], 2)),
            "stack behind": lambda: Apply(lambda x, y: torch.stack((x, y), dim=-1)),
            "hstack": lambda: Apply(lambda x, y: torch.hstack((x, y))),
            "concat": lambda: Apply(lambda x, y: torch.concat((x, y), dim=-2)),
        },
        signals=2,
    ),
    *family(
        aten.slice.Tensor,
        Family.DATA_MOVEMENT,
        {
            "start and end": lambda: Apply(lambda x: x[:, 1:3]),
            "negative": lambda: Apply(lambda x: x[..., -4:-1]),
            "with steps": lambda: Apply(lambda x: x[:, :, 1::2]),
            "steps with remainder": lambda: Apply(lambda x: x[:, :, :6:4]),
            "behind the end": lambda: Apply(lambda x: x[:, :, 2:100]),
            "narrow": lambda: Apply(lambda x: x.narrow(-2, 1, 4)),
            "narrow from the end": lambda: Apply(lambda x: torch.narrow(x, 3, -4, 2)),
            "split": lambda: Apply(lambda x: x.split(3, 2)[1]),
            "split, the rest": lambda: Apply(lambda x: x.split(3, 2)[-1]),
            "split by sizes": lambda: Apply(lambda x: torch.split(x, [1, 3], 1)[1]),
            "chunk": lambda: Apply(lambda x: x.chunk(3, -2)[2]),
            "tensor_split": lambda: Apply(lambda x: x.tensor_split(3, 2)[2]),
            "an index that is a slice": lambda: Apply(lambda x: x[:, :, [1, 3, 5]]),
        },
    ),
    *family(
        aten.slice.Tensor,
        Family.DATA_MOVEMENT,
        {
            "two dimensions": lambda: Apply(lambda x: x[:, :, 1:5, -3:]),
            "two halves": lambda: Apply(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
        },
        times=2,
    ),
    *family(
        aten.select.int,
        Family.DATA_MOVEMENT,
        {
            "first": lambda: Apply(lambda x: x[:, 0]),
            "last": lambda: Apply(lambda x: x[..., -1]),
            "select": lambda: Apply(lambda x: torch.select(x, 2, 3)),
            "unbind": lambda: Apply(lambda x: x.unbind(-1)[2]),
        },
    ),
    Row(aten.slice.Tensor, "negative padding", Family.DATA_MOVEMENT, lambda: nn.ZeroPad2d((-1, 0, -2, -1)), times=2),
    *family(
        aten.constant_pad_nd.default,
        Family.DATA_MOVEMENT,
        {
            "zeros": lambda: nn.ZeroPad2d((1, 2, 0, 3)),
            "a number": lambda: nn.ConstantPad2d((1, 0, 2, 1), 0.5),
            "padded and cropped": lambda: Apply(lambda x: F.pad(x, (2, -1, -1, 1))),
            "channels": lambda: Apply(lambda x: F.pad(x, (0, 0, 0, 0, 1, 2))),
            "with a value": lambda: Apply(lambda x: F.pad(x, (1, 1), value=-2.0)),
            "a line": lambda: Apply(lambda x: F.pad(line(x), (3, 1))),
        },
    ),
    *family(
        aten.roll.default,
        Family.DATA_MOVEMENT,
        {
            "one dimension": lambda: Apply(lambda x: x.roll(2, -1)),
            "two dimensions": lambda: Apply(lambda x: torch.roll(x, (1, -2), (2, 3))),
            "there and back": lambda: Apply(lambda x: x.roll((-3,), (1,))),
        },
    ),
    *family(
        aten.expand.default,
        Family.DATA_MOVEMENT,
        {
            "a channel": lambda: Apply(lambda x: x[:, :1].expand(-1, 5, -1, -1)),
            "to another's shape": lambda: Apply(lambda x: x[:, 1:2].expand_as(x)),
            "new dimension": lambda: Apply(lambda x: x.unsqueeze(2).expand(-1, -1, 3, -1, -1)),
            "broadcast_to": lambda: Apply(lambda x: x[..., :1].broadcast_to(x.shape)),
            "repeat": lambda: Apply(lambda x: x.repeat(1, 1, 1, 3)),
            "repeat one": lambda: Apply(lambda x: x[:, :1].repeat(1, 3, 1, 1)),
            "tile": lambda: Apply(lambda x: x.tile(2, 1)),
            "repeat_interleave": lambda: Apply(lambda x: x.repeat_interleave(2, -2)),
        },
    ),
    Row(
        aten.expand.default,
        "repeat in two dimensions",
        Family.DATA_MOVEMENT,
        lambda: Apply(lambda x: x.repeat(1, 2, 1, 3)),
        times=2,
    ),
    *family(
        aten.index_select.default,
        Family.DATA_MOVEMENT,
        {
            "index_select": lambda: Apply(lambda x, c: x.index_select(-2, c), CHOICE.clamp(min=0)),
            "by a buffer": lambda: Apply(lambda x, c: x[:, c], CHOICE),
            "by a table": lambda: Apply(lambda x, c: x[..., c, :], GRID),
            "by a list": lambda: Apply(lambda x: x[:, :, [0, 2, -1]]),
            "by a list, an entry twice": lambda: Apply(lambda x: x[..., [1, 1, 4]]),
            "by a constant": lambda: Apply(lambda x: x[:, torch.tensor([[2, 0], [1, 3]])]),
            "by a mask": lambda: Apply(from_list),
            "flip": lambda: Apply(lambda x: x.flip(-1)),
            "fliplr": lambda: Apply(torch.fliplr),
            "a quarter turn": lambda: Apply(lambda x: torch.rot90(x, 1, (2, 3))),
            "reflection of a line": lambda: Apply(lambda x: F.pad(line(x), (1, 2), mode="reflect")),
            "repetition of a line": lambda: nn.Sequential(Apply(line), nn.ReplicationPad1d((2, 1))),
            "around a line": lambda: nn.Sequential(Apply(line), nn.CircularPad1d((2, 3))),
            "around and cropped": lambda: Apply(lambda x: F.pad(x, (0, 2, -1, 0), mode="circular")),
            "windows": lambda: Apply(lambda x: x.unfold(2, 3, 2)),
            "windows of channels": lambda: Apply(lambda x: x.unfold(1, 3, 1)),
        },
    ),
    *family(
        aten.index_select.default,
        Family.DATA_MOVEMENT,
        {
            "flip in two dimensions": lambda: Apply(lambda x: x.flip(1, -1)),
            "half a turn": lambda: Apply(lambda x: torch.rot90(x, 2, (2, 3))),
            "reflection": lambda: nn.ReflectionPad2d((1, 2, 4, 3)),
            "repetition": lambda: nn.ReplicationPad2d((1, 2, 0, 3)),
            "around": lambda: nn.CircularPad2d(2),
            "reflection of a volume": lambda: Apply(lambda x: F.pad(volume(x), (1, 0, 0, 2, 0, 0), mode="reflect")),
            "repetition of a volume": lambda: nn.Sequential(Apply(volume), nn.ReplicationPad3d((0, 1, 1, 0, 0, 0))),
            "patches": lambda: nn.Unfold(3),
            "patches of padded maps": lambda: nn.Unfold((2, 3), padding=(1, 0), stride=(2, 1)),
            "dilated patches": lambda: nn.Unfold(2, dilation=(1, 3), padding=1, stride=2),
        },
        times=2,
    ),
    *family(
        aten.masked_fill.Scalar,
        Family.DATA_MOVEMENT,
        {
            "by a buffer": lambda: Apply(lambda x, c: x.masked_fill(c, 0.5), MASK),
            "in place": lambda: Apply(lambda x, c: x.clone().masked_fill_(c, -1), MASK),
            "where, else a number": lambda: Apply(lambda x, c: torch.where(c, x, 0.0), MASK),
            "where a number, else": lambda: Apply(lambda x, c: torch.where(c, -0.3, x), MASK),
            "by a constant of the code": lambda: Apply(
                lambda x: x.masked_fill(torch.tensor([True] * 5 + [False]), 0.0)
            ),
            "by a comparison": lambda: Apply(lambda x: x.masked_fill(x < 0.1, -0.3)),
            "threshold": lambda: nn.Threshold(0.1, -2),
            "Hardshrink": lambda: nn.Hardshrink(0.2),
            "lower triangle": lambda: Apply(torch.tril),
            "upper triangle": lambda: Apply(lambda x: x.triu(-1)),
            "a number written": lambda: Apply(lambda x: written(x, (slice(None), [0, -1]), 0.5)),
            "a number written by a mask": lambda: Apply(lambda x, c: written(x, (slice(None), c[:, 0, 0]), 0.5), MASK),
        },
    ),
    *family(
        aten.cat.default,
        Family.DATA_MOVEMENT,
        {
            "a part written": lambda: Apply(lambda x, y: written(x, (slice(None), slice(1, 3)), y[:, :2])),
            "a channel written": lambda: Apply(lambda x, y: written(x, (slice(None), 2), y[:, 0])),
            "a column written": lambda: Apply(lambda x, y: written(x, (..., -1), y[..., 0])),
            "every other row written": lambda: Apply(
                lambda x, y: written(x, (slice(None), slice(None), slice(0, None, 2)), y[:, :, :4])
            ),
            "positions written": lambda: Apply(lambda x, y: written(x, (slice(None), [3, 0]), y[:, 1:3])),
            "written through a view": lambda: Apply(written_through_a_view),
            "a broadcast part written": lambda: Apply(lambda x, y: written(x, (slice(None), slice(2)), y[:, :1, :1])),
        },
        signals=2,
    ),
    *family(
        aten.cat.default,
        Family.DATA_MOVEMENT,
        {
            "a number into a channel": lambda: Apply(lambda x: written(x, (slice(None), 1), 0.5)),
            "a tensor of the code into a part": lambda: Apply(
                lambda x: written(x, (slice(None), slice(2)), torch.tensor([1.0, 2.0], dtype=x.dtype)[:, None, None])
            ),
        },
    ),
    *family(
        aten.index_select.default,
        Family.DATA_MOVEMENT,
        {
            "by a part of a buffer": lambda: Apply(lambda x, c: x[:, c[:2, :2].reshape(-1)], GRID),
            "rows and columns": lambda: Apply(lambda x: x[:, :, [0, 3, -1], [1, 1, 2]]),
            "channels and rows, as a grid": lambda: Apply(
                lambda x: x[:, torch.tensor([[0], [2]]), torch.tensor([[1, 5, 6]])]
            ),
        },
    ),
    Row(
        aten.slice.Tensor,
        "a shifted diagonal",
        Family.DATA_MOVEMENT,
        lambda: Apply(lambda x: x.permute(0, 2, 1, 3).diagonal(1, 1, 3)),
    ),
    *family(
        aten.to.dtype,
        Family.DATA_MOVEMENT,
        {
            "single precision, and back": lambda: Apply(lambda x: x.float().double()),
            "like another": lambda: Apply(lambda x: x.type_as(torch.zeros(1)).type_as(x)),
        },
        times=2,
        rtol=1e-6,
    ),
    *family(
        aten.where.self,
        Family.DATA_MOVEMENT,
        {
            "two signals": lambda: Apply(lambda x, y, c: torch.where(c, x, y), MASK),
            "by a comparison": lambda: Apply(lambda x, y: torch.where(x > y, x, y)),
            "of other shapes": lambda: Apply(lambda x, y, c: torch.where(c, x[:, :1], y[..., :1]), MASK),
        },
        signals=2,
    ),
    *family(
        aten.where.self,
        Family.DATA_MOVEMENT,
        {
            "a signal and zeros": lambda: Apply(lambda x, c: torch.where(c, torch.zeros_like(x), x), MASK),
            "a signal and a constant": lambda: Apply(
                lambda x, c: torch.where(c > 0.5, x, c), torch.linspace(0, 1, WIDTH, dtype=torch.float64)
            ),
            "a filling that is a tensor": lambda: Apply(
                lambda x, c: x.masked_fill(c, torch.tensor(0.5, dtype=x.dtype)), MASK
            ),
        },
    ),
]
