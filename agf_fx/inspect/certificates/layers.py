"""Small layers of symbols, on which rules are run: a call with its values, and a message at its output.

Messages belong to two targets: that of the first is made of symbols, that of the second of numbers of other signs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import fx

from agf_fx.inspect.certificates.numbers import Number, numbers, symbols
from agf_fx.inspect.certificates.symbolic import Symbolic
from agf_fx.ir.facts import mark
from agf_fx.ir.types import BATCH, TensorType
from agf_fx.rules.gradients import vjp
from agf_fx.rules.numerics import EXACT, Division, dividing
from agf_fx.rules.rule import Rule
from agf_fx.rules.site import GRADIENT, Sent, Site

aten = torch.ops.aten
TARGETS = 2


class Constant:
    """A value that does not depend on the images."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values


@dataclass(frozen=True, eq=False)
class Case:
    """A layer, and a message at its output.

    Attributes:
        about: which of the cases that a rule tells apart it is.
        site: the call.
        message: (K, 1, *y), numbers.
        values: what the layer is made of, by name.
    """

    about: str
    site: Site
    message: np.ndarray
    values: Mapping[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def target_of(self, phi: np.ndarray) -> int:
        """Which target a part of the message belongs to."""
        return next(target for target, part in enumerate(self.message) if part.flat[0] is phi.flat[0])


def call(
    target: Callable[..., Any],
    *args: Any,
    sent: np.ndarray | None = None,
    beside: Mapping[str, np.ndarray] | None = None,
    reference: tuple[Any, ...] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Site:
    """A call of one sample, explained for all targets.

    Args:
        target: the operation.
        args: its arguments: arrays (1, ...) of signals, `Constant` for what does not depend on the images, lists of
            these, and anything else as it is.
        sent: the gradient at its output, (K, 1, *y), of a method whose rules read it.
        beside: constants beside the call.
        reference: the arguments on the baseline.
        facts: what the analyses have found out.
    """
    graph = fx.Graph()

    def placed(value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(item, np.ndarray | Constant) for item in value):
            return [placed(item) for item in value]
        if not isinstance(value, np.ndarray | Constant):
            return value
        node, signal = graph.placeholder(f"x{len(graph.nodes)}"), isinstance(value, np.ndarray)
        shape = (BATCH, *value.shape[1:]) if signal else value.values.shape
        node.meta = {"type": TensorType(shape, torch.float64), "depends_on_images": signal}
        return node

    node = graph.call_function(target, tuple(map(placed, args)))
    values = tuple(map(_symbolic, args))
    output = target(*values)
    node.meta |= {"type": TensorType((BATCH, *output.shape[1:]), torch.float64), "depends_on_images": True}
    mark(node, **(facts or {}))
    site = Site(node, values, output, TARGETS, beside={name: Symbolic(a) for name, a in (beside or {}).items()})
    if sent is not None:
        received = Symbolic(sent)
        site = replace(site, sent={GRADIENT: Sent(received, vjp(site, received))})
    if reference is not None:
        before = tuple(map(_symbolic, reference))
        site = replace(site, reference=replace(site, args=before, output=target(*before)))
    return site


def _symbolic(value: Any) -> Any:
    if isinstance(value, Constant):
        return Symbolic(value.values)
    if isinstance(value, list):
        return [_symbolic(item) for item in value]
    return Symbolic(value) if isinstance(value, np.ndarray) else value


_SIZES = (2, -3, 5, -7, 11, -13, 17, -19)
_OTHERS = (-4, 3, 1, -2, 6, 5, -3, 2)


def message(name: str, shape: tuple[int, ...], sizes: tuple[int, ...] = _SIZES) -> np.ndarray:
    """A message (K, 1, *shape): symbols, and numbers of other signs."""
    count = int(np.prod(shape))
    first = symbols(name, np.resize(sizes, count).reshape(1, 1, *shape))
    other = numbers(np.resize(_OTHERS, count).reshape(1, 1, *shape))
    return np.concatenate([first, other])


def case(about: str, site: Site, name: str = "Phi", **values: Any) -> Case:
    """A case with a message of the shape of the call's output."""
    return Case(about, site, message(name, site.output.shape[1:]), values)


EPSILON = Number(symbols("epsilon", [0.01])[0].expression, 0.01)
"""The stabiliser, as a symbol."""


def stabilised(rule: Rule) -> Division:
    """The rule's kind of division, by a symbol ε."""
    return EXACT if rule.division.is_exact else Division(rule.division.kind, EPSILON)


@functools.lru_cache(maxsize=512)
def messages(rule: Rule, case: Case, division: Division = EXACT) -> tuple[np.ndarray | None, ...]:
    """What the rule's own code hands to each operand, (K, 1, *operand)."""
    with dividing(division):
        found = rule.divided(division)(case.site, Symbolic(case.message))
    return tuple(None if part is None else part.entries for part in found)


# Linear layers of two inputs and two outputs, and of four inputs and one

_LINEAR = (
    ("contributions of both signs, outputs above 0", (2, 3), ((3, -1), (-2, 5)), (0.5, -0.25)),
    ("inputs of both signs, outputs of both", (2, -3), ((-3, -1), (-1, -2)), (-0.5, 0.25)),
    ("inputs and weights in all four combinations of signs", (2, -3, 5, -1), ((-3, 1, 2, -4),), (0.5,)),
    ("an output without positive contributions", (-2, -3), ((3, -1), (5, 1)), (0.5, -0.25)),
    ("an output without negative contributions", (2, 3), ((1, 2), (3, -1)), (0.5, 0.25)),
    ("an input and a weight of 0", (0, 3), ((-1, 2), (3, 0)), (0.5, 0.25)),
)


def _linear(about: str, x: tuple, weight: tuple, bias: tuple | None, **more: Any) -> Case:
    x, weight = symbols("x", [x]), symbols("W", weight)
    bias = None if bias is None else symbols("b", bias)
    constants = Constant(weight), None if bias is None else Constant(bias)
    return case(about, call(aten.linear.default, x, *constants, **more), x=x, weight=weight, bias=bias)


@functools.cache
def linear(bias: bool = False) -> tuple[Case, ...]:
    """A linear layer, by the signs of its contributions."""
    return tuple(_linear(about, x, weight, b if bias else None) for about, x, weight, b in _LINEAR)


@functools.cache
def linear_of_both_signs(bias: bool = False) -> tuple[Case, ...]:
    """Of these, where every output has contributions of both signs."""
    return linear(bias)[:3]


@functools.cache
def linear_with_gradient() -> tuple[Case, ...]:
    """A linear layer with a gradient at its output."""
    gradient = message("g", (2,), (3, -2))
    return tuple(_linear(*row, sent=gradient) for row in _LINEAR[:2])


@functools.cache
def linear_of_three() -> tuple[Case, ...]:
    """A linear layer of three inputs, of which one lies between the extremes."""
    rows = (
        ("inputs between extremes", (-1, 2, 3), ((2, -1, 4), (-3, 1, 2))),
        ("the same, and a weight of 0", (1, -2, 3), ((-2, 0, 1), (3, 1, -2))),
    )
    return tuple(_linear(*row, None) for row in rows)


LINEAR = "linear layers, 2 inputs and 2 outputs, 4 inputs and 1"
LINEAR_3 = "linear layer, 3 inputs, 2 outputs"
