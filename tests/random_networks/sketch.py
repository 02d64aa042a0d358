"""A network being written, line by line, with the shape of every value."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

MOST_STEPS = 20  # after which no further block is begun


class Impossible(Exception):
    """A drawn layer does not fit the value it was drawn for."""


class Sketch:
    """Lines of ``__init__`` and of ``forward``, and the values that they make of zeros.

    A feature map is (N, C, *spatial) with ``dims`` spatial dimensions, tokens are (N, T, D), vectors (N, D).

    Attributes:
        images: shape of the images, two of them.
        dims: how many spatial dimensions they have.
        named: names that a block has given to layers, for others to share.
    """

    def __init__(self, seed: int, images: tuple[int, ...]) -> None:
        self.random = Random(seed)
        self.images, self.dims = images, len(images) - 2
        self.layers: list[str] = []
        self.steps: list[str] = []
        self.self = SimpleNamespace()
        self.named: set[str] = set()
        self.values: dict[str, Any] = {"self": self.self, "torch": torch, "nn": nn, "F": F, "math": math}
        self.values["x"] = torch.zeros(images)

    def integer(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def pick(self, *options: Any) -> Any:
        return self.random.choice(options)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def shape(self, value: str) -> tuple[int, ...]:
        """The shape of a value without the batch."""
        return tuple(self.values[value].shape[1:])

    def channels(self, x: str) -> int:
        return self.shape(x)[0]

    def size(self, x: str) -> list[int]:
        """The spatial shape of a feature map."""
        return list(self.shape(x)[1:])

    @property
    def d(self) -> str:
        """The end of the names of layers: ``1d``, ``2d`` or ``3d``."""
        return f"{self.dims}d"

    @property
    def spatial(self) -> tuple[int, ...]:
        """The spatial dimensions of a feature map."""
        return tuple(range(2, 2 + self.dims))

    @property
    def full(self) -> bool:
        """Whether the network is as large as it should get."""
        return len(self.steps) >= MOST_STEPS

    def per_dim(self, *choices: int) -> int | tuple[int, ...]:
        """One of the numbers for all dimensions, or one for each."""
        if self.dims == 1 or self.chance(0.6):
            return self.pick(*choices)
        return tuple(self.pick(*choices) for _ in range(self.dims))

    def layer(self, expression: str, name: str | None = None) -> str:
        """Give ``self`` a new layer or parameter; returns its name.

        Raises:
            Impossible: it refuses its settings.
        """
        kind = expression.removeprefix("nn.").split("(")[0].lower()
        name = name or f"{kind}{len(self.layers)}"
        try:
            layer = eval(expression, self.values)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise Impossible(expression) from error
        setattr(self.self, name, layer.eval() if isinstance(layer, nn.Module) else layer)
        self.layers.append(f"self.{name} = {expression}")
        return name

    def parameter(self, *shape: int, positive: bool = False) -> str:
        """A new parameter, as an expression."""
        values, sizes = "rand" if positive else "randn", ", ".join(map(str, shape))
        return f"self.{self.layer(f'nn.Parameter(torch.{values}({sizes}))')}"

    def step(self, expression: str) -> str:
        """Compute a new value; returns its name.

        Raises:
            Impossible: the operation refuses its operands, or nothing is left of an image.
        """
        name = f"x{len(self.steps) + 1}"
        try:
            value = eval(expression, self.values)
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            raise Impossible(expression) from error
        if value.numel() == 0:
            raise Impossible(expression)
        self.values[name] = value
        self.steps.append(f"{name} = {expression}")
        return name

    def apply(self, expression: str, x: str) -> str:
        """A new layer and its value on ``x``; the layer is taken back where it does not fit."""
        name = self.layer(expression)
        try:
            return self.step(f"self.{name}({x})")
        except Impossible:
            self.layers.pop()
            raise

    def attempt(self, block: Block, x: str) -> str:
        """``block`` on ``x``, or ``x`` itself where the block does not fit."""
        layers, steps = len(self.layers), len(self.steps)
        try:
            return block(self, x)
        except Impossible:
            del self.layers[layers:], self.steps[steps:]
            return x

    def in_place(self, statement: str) -> None:
        """A statement that changes a value."""
        exec(statement, self.values)
        self.steps.append(statement)


Block = Callable[[Sketch, str], str]


def options(**given: Any) -> str:
    """Keyword arguments as source; those that are None are left out."""
    return "".join(f", {name}={value!r}" for name, value in given.items() if value is not None)


def maybe(probability: float, block: Block, sketch: Sketch, x: str) -> str:
    return block(sketch, x) if sketch.chance(probability) else x


def fresh(sketch: Sketch, x: str) -> str:
    """A value that an operation in place may change: neither the images, nor a view of them."""
    value = sketch.values[x]
    base = value._base if value._is_view() else value
    return sketch.step(f"{x} * 1.25") if base is sketch.values["x"] else x


def finite(expression: str, shape: tuple[int, ...]) -> bool:
    """False where a pooling has a window that lies in the padding alone: torch then returns -inf, or 0 / 0."""
    try:
        return bool(eval(expression)(torch.zeros(1, *shape)).isfinite().all())
    except RuntimeError:
        return False
