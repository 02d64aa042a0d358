"""Seeded networks as scripts that can be pasted anywhere."""

from __future__ import annotations

import functools
import textwrap
from random import Random

import torch

from random_networks.blocks import layers, merges, movement, tokens
from random_networks.sketch import Block, Impossible, Sketch, maybe, options

TOGETHER = 6  # so many neighbouring seeds have images of one shape, and are captured at once

BLOCKS: tuple[Block, ...] = (
    *[layers.plain] * 3,
    *[layers.pool] * 3,
    *[merges.residual] * 4,
    *[merges.junction] * 2,
    *[layers.affine] * 2,
    *[movement.movement] * 10,
    *(layers.transposed_convolution, layers.functional_convolution, layers.norm, layers.smooth, layers.dropout),
    *(layers.on_channels, layers.reduction, layers.layer_scale),
    *(merges.concatenation, merges.concatenation, merges.fan_out, merges.shared, merges.u_shape),
    *(merges.global_context, merges.column_and_row, merges.squeeze_excite, merges.spatial_gate, merges.gated_unit),
    *(merges.highway, *[merges.product] * 2, *[merges.quotient] * 4, merges.larger, merges.attention_over_positions),
)


def images_shape(seed: int) -> tuple[int, ...]:
    """(2, C, *spatial), with one to three spatial dimensions; the same for `TOGETHER` neighbouring seeds."""
    random = Random(f"images {seed // TOGETHER}")
    dims = random.choice((1, 2, 2, 2, 3))
    low, high = {1: (7, 14), 2: (6, 10), 3: (4, 6)}[dims]
    return (2, random.choice((1, 2, 3, 3, 4)), *(random.randint(low, high) for _ in range(dims)))


@functools.cache
@torch.no_grad()
def network_source(seed: int) -> str:
    """A network, images (2, C, ...) and targets (2, 2), as a script; the same for the same seed."""
    for attempt in range(200):
        sketch = Sketch(seed * 200 + attempt, images_shape(seed))
        classes = sketch.integer(2, 5)
        try:
            logits = tail(sketch, sketch.pick(*[on_maps] * 3, on_tokens)(sketch, classes))
        except Impossible:
            continue
        return _script(sketch, logits, classes, seed)
    raise AssertionError(f"seed {seed} yields no network")


def on_maps(sketch: Sketch, classes: int) -> str:
    """A few blocks on feature maps and a head; returns the logits."""
    x = maybe(0.15, layers.affine, sketch, "x")
    x = maybe(0.1, movement.movement, sketch, x)
    x = layers.plain(sketch, x) if sketch.chance(0.85) else layers.on_channels(sketch, x)
    for _ in range(sketch.integer(1, 4)):
        if not sketch.full:
            x = sketch.attempt(sketch.pick(*BLOCKS), x)
    x = maybe(0.3, layers.pool, sketch, x)
    return sketch.pick(linear_head, linear_head, linear_head, convolutional_head)(sketch, x, classes)


def on_tokens(sketch: Sketch, classes: int) -> str:
    """Perhaps a block on feature maps, then blocks on tokens, and a head."""
    x = maybe(0.3, sketch.pick(layers.plain, merges.residual), sketch, "x")
    x = tokens.tokens(sketch, x)
    for _ in range(sketch.integer(1, 3)):
        if not sketch.full:
            x = sketch.attempt(sketch.pick(*tokens.TOKEN_BLOCKS), x)
    if sketch.chance(0.15):
        return linear_head(sketch, layers.plain(sketch, tokens.as_maps(sketch, x)), classes)
    return perceptron_head(sketch, tokens.pooled_tokens(sketch, x), classes)


def flattened(sketch: Sketch, x: str) -> str:
    """The feature map as a vector per image."""
    if sketch.chance(0.4):
        size = tuple(sketch.pick(1, 1, 2) for _ in range(sketch.dims))
        x = sketch.apply(f"nn.AdaptiveAvgPool{sketch.d}({sketch.pick(1, size)})", x)
    view = "view" if sketch.values[x].is_contiguous() else "reshape"
    return sketch.step(
        sketch.pick(
            "{x}.flatten(1)",
            "torch.flatten({x}, 1)",
            "{x}.reshape({x}.size(0), -1)",
            "{x}.{view}({x}.shape[0], -1)",
            "{x}.movedim(1, -1).flatten(1)",
            "{x}.mean({spatial})",
            "{x}.amax({spatial})",
            "{x}.mean({negative}, keepdim=True).flatten(1)",
            "F.adaptive_avg_pool{d}({x}, 1){squeeze}",
            "torch.cat([{x}.mean({spatial}), {x}.amax({spatial})], 1)",
        ).format(
            x=x,
            d=sketch.d,
            view=view,
            spatial=sketch.spatial,
            negative=[-1 - i for i in range(sketch.dims)],
            squeeze="".join(f".squeeze({dim})" for dim in reversed(sketch.spatial)),
        )
    )


def linear_head(sketch: Sketch, x: str, classes: int) -> str:
    return perceptron_head(sketch, flattened(sketch, x), classes)


def perceptron_head(sketch: Sketch, x: str, classes: int) -> str:
    for _ in range(sketch.pick(0, 0, 1, 2)):
        x = sketch.apply(f"nn.Linear({sketch.shape(x)[0]}, {sketch.integer(4, 8)})", x)
        x = sketch.apply(f"nn.BatchNorm1d({sketch.shape(x)[0]})", x) if sketch.chance(0.2) else x
        x = maybe(0.3, layers.dropout, sketch, maybe(0.8, layers.activation, sketch, x))
    width, bias = sketch.shape(x)[0], options(bias=sketch.pick(None, None, False))
    if sketch.chance(0.1):
        other = sketch.apply(f"nn.Linear({width}, {classes})", x)
        return sketch.step(f"{sketch.apply(f'nn.Linear({width}, {classes}{bias})', x)} + 0.5 * {other}")
    if sketch.chance(0.15):
        return sketch.step(f"F.linear({x}, {sketch.parameter(classes, width)})")
    return sketch.apply(f"nn.Linear({width}, {classes}{bias})", x)


def convolutional_head(sketch: Sketch, x: str, classes: int) -> str:
    """A pointwise convolution to the classes, and a global mean or maximum behind it."""
    x = sketch.apply(f"nn.Conv{sketch.d}({sketch.channels(x)}, {classes}, 1)", maybe(0.5, layers.dropout, sketch, x))
    x = maybe(0.3, layers.activation, sketch, x)
    form = sketch.pick(
        "{0}.mean({1})", "F.adaptive_avg_pool{2}({0}, 1).flatten(1)", "{0}.amax({1})", "{0}.flatten(2).mean(-1)"
    )
    return sketch.step(form.format(x, sketch.spatial, sketch.d))


def tail(sketch: Sketch, logits: str) -> str:
    """What may stand behind the head: usually nothing."""
    if sketch.chance(0.8):
        return logits
    return sketch.step(
        sketch.pick(
            *(
                "F.softmax({}, 1)",
                "F.log_softmax({}, dim=-1)",
                "torch.sigmoid({})",
                "{} * 2.5",
                "{0} - {0}.mean(1, keepdim=True)",
            ),
            *("torch.tanh({})", "{} / 0.7 + 0.1", "F.normalize({}, dim=1)"),
        ).format(logits)
    )


def _script(sketch: Sketch, logits: str, classes: int, seed: int) -> str:
    target = [[sketch.integer(-1, classes - 1) for _ in range(2)] for _ in range(2)]
    return _TEMPLATE.format(
        layers=textwrap.indent("\n".join(sketch.layers), " " * 8).lstrip(),
        steps=textwrap.indent("\n".join([*sketch.steps, f"return {logits}"]), " " * 8).lstrip(),
        seed=seed,
        zeros=sketch.pick("", "", "\n        nn.init.zeros_(layer.weight[:1])"),
        images=", ".join(map(str, sketch.images)),
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
    if getattr(layer, "running_var", None) is not None:
        nn.init.normal_(layer.running_mean, 0, 0.2)
        nn.init.uniform_(layer.running_var, 0.5, 2)
    if "Norm" in type(layer).__name__ and getattr(layer, "weight", None) is not None:
        nn.init.normal_(layer.weight, 0.8, 0.6){zeros}
        if getattr(layer, "bias", None) is not None:
            nn.init.normal_(layer.bias, 0, 0.2)
images = torch.randn({images}, dtype=torch.float64)
target = torch.tensor({target})
"""
