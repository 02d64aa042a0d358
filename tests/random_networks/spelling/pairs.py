"""Seeded networks as pairs of programs over the same layers."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from random_networks.spelling import families, padding

TOGETHER = 10  # pairs captured at once, on images of one shape


@dataclass(frozen=True)
class Pair:
    """Two programs of one function.

    Attributes:
        seed: what it was drawn with.
        first, second: scripts that make ``model``, ``images`` and ``target``.
        spelled: the steps at which the two differ, as (first, second).
        channels_last: whether the second program takes images with the channels last.
    """

    seed: int
    first: str
    second: str
    spelled: tuple[tuple[str, str], ...]


@dataclass
class _Writer:
    """Two forward passes being written, with the shape of the current value (c, h, w)."""

    random: Random
    shape: tuple[int, int, int]
    layers: list[str] = field(default_factory=list)
    steps: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    count: int = 0

    def layer(self, expression: str) -> str:
        self.layers.append(f"self.l{len(self.layers)} = {expression}")
        return f"self.l{len(self.layers) - 1}"

    def say(self, spellings: Sequence[str], x: str, **names: object) -> str:
        """One step in two of its spellings; returns the name of its value."""
        c, h, w = self.shape
        known = {"x": x, "c": c, "h": h, "w": w, "p": h * w, "f": c * h * w, **names}
        self.count += 1
        for steps, form in zip(self.steps, self.random.sample([*spellings] * 2, 2), strict=True):
            steps.append(f"x{self.count} = {form.format(**known)}")
        return f"x{self.count}"

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def activation(self, x: str) -> str:
        return self.say(self.random.choice(families.ACTIVATIONS), x)

    def norm(self, x: str) -> str:
        return self.say(families.NORMS, x, L=self.layer(f"nn.BatchNorm2d({self.shape[0]})"))

    def spatial(self, x: str, out: int, keep: bool = False) -> str:
        """A convolution with zero padding; ``keep`` its input's size."""
        spellings, layer, self.shape = padding.drawn(self.random, self.shape, out, keep)
        return self.say(spellings, x, L=self.layer(layer))

    def pointwise(self, x: str, out: int) -> str:
        """An einsum over one channel is a product, which scales a repeated signal and is no layer."""
        spellings = [form for form in families.CHANNEL_LAYERS if self.shape[0] > 1 or "einsum" not in form]
        found = self.say(spellings, x, L=self.layer(f"nn.Conv2d({self.shape[0]}, {out}, 1)"))
        self.shape = (out, *self.shape[1:])
        return found

    def grouped(self, x: str) -> str:
        """A depthwise or grouped convolution, whole or by chunks."""
        channels = self.shape[0]
        groups = channels if channels % 2 or self.chance(0.5) else 2
        layer = self.layer(f"nn.Conv2d({channels}, {channels}, 3, padding=1, groups={groups})")
        return self.say(padding.CHUNKS, x, L=layer, g=groups, n=channels // groups)


def _sum(writer: _Writer, x: str, y: str) -> str:
    kinds = (families.SUMS, families.SUMS, families.AVERAGES, families.BLENDS, families.DIFFERENCES, families.WEIGHTED)
    kind = writer.random.choice(kinds)
    if kind is families.WEIGHTED and not any("self.mix" in layer for layer in writer.layers):
        writer.layers.append("self.mix = nn.Parameter(torch.rand(2))")
    return writer.say(kind, x, y=y)


def _plain(writer: _Writer, x: str) -> str:
    x = writer.spatial(x, writer.random.randint(2, 4))
    x = writer.norm(x) if writer.chance(0.5) else x
    return writer.activation(x) if writer.chance(0.8) else x


def _residual(writer: _Writer, x: str) -> str:
    channels = writer.shape[0]
    y = writer.activation(writer.spatial(x, channels, keep=True))
    if writer.chance(0.7):
        y = writer.norm(writer.spatial(y, channels, keep=True)) if writer.chance(0.6) else writer.pointwise(y, channels)
    y = writer.activation(y) if writer.chance(0.3) else y
    found = _sum(writer, x, y)
    return writer.activation(found) if writer.chance(0.7) else found


def _branches(writer: _Writer, x: str) -> str:
    channels = writer.shape[0]
    parts = [writer.spatial(x, channels, keep=True), writer.pointwise(x, channels), x]
    return writer.activation(writer.say(families.THREE, parts[0], y=parts[1], z=parts[2]))


def _inverted(writer: _Writer, x: str) -> str:
    channels = writer.shape[0]
    y = writer.activation(writer.pointwise(x, channels * 2))
    y = writer.activation(writer.norm(writer.grouped(y)))
    return _sum(writer, x, writer.pointwise(y, channels))


def _grouped(writer: _Writer, x: str) -> str:
    return writer.activation(writer.grouped(x))


def _pool(writer: _Writer, x: str) -> str:
    c, h, w = writer.shape
    if min(h, w) < 4:
        return x
    found = writer.say(("F.max_pool2d({x}, 2)", "nn.MaxPool2d(2)({x})"), x)
    writer.shape = c, h // 2, w // 2
    return found


_BLOCKS = (_plain, _residual, _residual, _branches, _inverted, _grouped, _pool)


def images_shape(seed: int) -> tuple[int, ...]:
    """The same for `TOGETHER` neighbours."""
    random = Random(f"pairs {seed // TOGETHER}")
    return (2, random.choice((1, 3)), random.randint(6, 9), random.randint(6, 9))


@functools.cache
def pair(seed: int, blocks: int = 3) -> Pair:
    """Two spellings of one network of at most so many blocks; the same for the same arguments."""
    shape = images_shape(seed)
    random = Random(f"pair {seed}")
    writer = _Writer(random, shape[1:])
    classes = random.randint(2, 4)
    x = writer.pointwise("x", random.randint(2, 4)) if random.random() < 0.15 else _plain(writer, "x")
    for _ in range(random.randint(int(blocks > 1), blocks)):
        x = random.choice(_BLOCKS)(writer, x)
    logits = _head(writer, x, classes)
    target = [[random.randint(-1, classes - 1) for _ in range(2)] for _ in range(2)]
    scripts = (_script(writer, steps, logits, seed, shape, target) for steps in writer.steps)
    spelled = tuple((a, b) for a, b in zip(*writer.steps, strict=True) if a != b)
    return Pair(seed, *scripts, spelled)


def _head(writer: _Writer, x: str, classes: int) -> str:
    c, h, w = writer.shape
    if writer.chance(0.5):
        x, width = writer.say(families.GLOBAL_MEANS, x), c
    else:
        flattening = families.FLATTENINGS if c > 1 and writer.chance(0.7) else families.POSITIONS_FIRST
        x, width = writer.say(flattening, x), c * h * w
    if writer.chance(0.5):
        hidden = writer.random.randint(3, 6)
        x = writer.say(families.DENSE, x, L=writer.layer(f"nn.Linear({width}, {hidden})"))
        x, width = writer.activation(x), hidden
    return writer.say(families.DENSE, x, L=writer.layer(f"nn.Linear({width}, {classes})"))


def _script(
    writer: _Writer, steps: list[str], logits: str, seed: int, images: tuple[int, ...], target: list[list[int]]
) -> str:
    return _TEMPLATE.format(
        layers=textwrap.indent("\n".join(writer.layers), " " * 8).lstrip(),
        steps=textwrap.indent("\n".join([*steps, f"return {logits}"]), " " * 8).lstrip(),
        seed=seed,
        images=", ".join(map(str, images)),
        target=target,
    )


_TEMPLATE = """\
import math
import torch
import torch.nn.functional as F
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        {layers}

    def forward(self, x):
        {steps}


torch.manual_seed({seed})
model = Network().double().eval()
for layer in model.modules():
    if isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.running_mean, 0, 0.2)
        nn.init.uniform_(layer.running_var, 0.5, 2)
        nn.init.normal_(layer.weight, 0.8, 0.6)
        nn.init.normal_(layer.bias, 0, 0.2)
images = torch.randn({images}, dtype=torch.float64)
target = torch.tensor({target})
"""
