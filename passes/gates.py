"""Gates: products in which one signal only scales the other, and matrix products with attention weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from agf_fx.ir.activations import is_function_of
from agf_fx.ir.facts import facts, mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import Family, depends_on_images, family_of, operands, signals

aten = torch.ops.aten

# What a gate is made by: functions with values between 0 and a bound; other bounded functions are weaker evidence.
_SWITCHES = {aten.sigmoid.default, aten.hardsigmoid.default, aten.softmax.int}
_BOUNDED = {aten.tanh.default, aten.erf.default, aten.hardtanh.default, aten.clamp.default}

# A combination of gates is a gate.
_COMBINING = (Family.PASS_THROUGH, Family.DATA_MOVEMENT, Family.AVERAGE, Family.MERGE, Family.PRODUCT)


def mark_gates(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark ``gate`` on products and quotients of two signals of which one only scales the other; and ``attention``.

    - The gate of a quotient is the denominator, that of x - mean(x) the mean: both are parts of a normalisation.
    - The gate of a product is the operand that looks more like one, in this order: made by a sigmoid, hard sigmoid or
      softmax; repeated over positions or channels, as squeeze-excite and spatial attention are; made by another bounded
      function, and of two such the one that is a function of the other, entry by entry. Scales, shifts, averages and
      data movement may stand in between, and gates may be combined. Of two operands that look alike otherwise, and of a
      value multiplied by itself, neither is a gate.
    - ``attention`` is the operand of a matrix product that a softmax made, left or right.
    """
    for node in canonical.calls:
        if not node.meta["depends_on_images"] or family_of(node) not in (Family.PRODUCT, Family.MERGE):
            continue
        first, second = operands(node)
        if node.target is aten.div.Tensor or (node.target is aten.sub.Tensor and _is_mean_of(second, first)):
            mark(node, gate=second.name)
        elif node.target is aten.matmul.default:
            made = [value for value in (first, second) if _made_by(value, {aten.softmax.int})]
            if len(made) == 1:
                mark(node, attention=made[0].name)
        elif node.target is aten.mul.Tensor and _likeness(first) != _likeness(second):
            mark(node, gate=max(first, second, key=_likeness).name)
        elif node.target is aten.mul.Tensor and any(_likeness(first)):
            made = [value for value, x in ((second, first), (first, second)) if value is not x and _follows(value, x)]
            if len(made) == 1:
                mark(node, gate=made[0].name)
    return canonical


def _follows(value: Any, x: Any) -> bool:
    """Whether a signal is a function of another one, entry by entry, and was made after it."""
    return depends_on_images(value) and depends_on_images(x) and x < value and is_function_of(value, x)


def _likeness(value: fx.Node) -> tuple[bool, bool, bool]:
    """How much a value looks like a gate; the larger, the more."""
    switch = _made_by(value, _SWITCHES)
    return switch, value.target is aten.expand.default, switch or _made_by(value, _SWITCHES | _BOUNDED)


def _made_by(value: Any, functions: set[Callable[..., Any]]) -> bool:
    """Whether ``functions`` made all that ``value`` consists of; they make bounded values wherever they are listed."""
    if not depends_on_images(value) or value.op != "call_function":
        return False
    if value.target in functions:
        return value.target is not aten.clamp.default or None not in value.args[1:]
    if family_of(value) not in _COMBINING or value.target is aten.matmul.default:
        return False
    if facts(value).gate and value.target in (aten.div.Tensor, aten.sub.Tensor):
        return _made_by(operands(value)[0], functions)  # weights divided by their sum
    return all(_made_by(signal, functions) for signal in signals(value))


def _is_mean_of(value: fx.Node, x: fx.Node) -> bool:
    """Whether ``value`` is the mean of x over some dimensions, repeated to the shape of x."""
    if value.target is aten.expand.default:
        value = value.args[0]
    return value.target is aten.mean.dim and value.args[0] is x
