"""Gates: products in which one signal only scales the other, and matrix products with attention weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from agf_fx.ir.activations import is_function_of
from agf_fx.ir.facts import facts, mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import Family, depends_on_images, family_of, operands, signals

aten = torch.ops.aten

# What a gate is made by: functions with values between 0 and a bound; other bounded functions are weaker evidence.
_SOFTMAX, _SWITCH, _BOUNDED = range(3)
_SWITCHES = {aten.sigmoid.default, aten.hardsigmoid.default, aten.softmax.int}
_FUNCTIONS = {
    _SOFTMAX: {aten.softmax.int},
    _SWITCH: _SWITCHES,
    _BOUNDED: _SWITCHES
    | {aten.tanh.default, aten.erf.default, aten.erfc.default, aten.atan.default}
    | {aten.hardtanh.default, aten.clamp.default},
}

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
    made: dict[fx.Node, frozenset[int]] = {}
    for node in filter(depends_on_images, canonical.calls):
        if family_of(node) in (Family.PRODUCT, Family.MERGE):
            _mark(node, made)
        made[node] = _makers(node, made)  # knows the gates of all before it, and its own
    return canonical


def _mark(node: fx.Node, made: dict[fx.Node, frozenset[int]]) -> None:
    def likeness(value: fx.Node) -> tuple[bool, bool, bool]:
        """How much a value looks like a gate; the larger, the more."""
        found = made.get(value, frozenset())
        return _SWITCH in found, value.target is aten.expand.default, _BOUNDED in found

    first, second = operands(node)
    if node.target is aten.div.Tensor or (node.target is aten.sub.Tensor and _is_mean_of(second, first)):
        mark(node, gate=second.name)
    elif node.target is aten.matmul.default:
        weights = [value for value in (first, second) if _SOFTMAX in made.get(value, ())]
        if len(weights) == 1:
            mark(node, attention=weights[0].name)
    elif node.target is aten.mul.Tensor and likeness(first) != likeness(second):
        mark(node, gate=max(first, second, key=likeness).name)
    elif node.target is aten.mul.Tensor and any(likeness(first)):
        gates = [value for value, x in ((second, first), (first, second)) if value is not x and _follows(value, x)]
        if len(gates) == 1:
            mark(node, gate=gates[0].name)


def _follows(value: Any, x: Any) -> bool:
    """Whether a signal is a function of another one, entry by entry, and was made after it."""
    return depends_on_images(value) and depends_on_images(x) and x < value and is_function_of(value, x)


def _makers(node: fx.Node, made: dict[fx.Node, frozenset[int]]) -> frozenset[int]:
    """Which kinds of functions made all that a value consists of; they make bounded values wherever they are listed."""
    one_sided = node.target is aten.clamp.default and None in node.args[1:]
    found = frozenset(kind for kind, functions in _FUNCTIONS.items() if node.target in functions and not one_sided)
    if family_of(node) not in _COMBINING or node.target is aten.matmul.default:
        return found
    if facts(node).gate and node.target in (aten.div.Tensor, aten.sub.Tensor):
        return made.get(operands(node)[0], frozenset())  # weights divided by their sum
    return found | frozenset.intersection(*(made.get(signal, frozenset()) for signal in signals(node)))


def _is_mean_of(value: fx.Node, x: fx.Node) -> bool:
    """Whether ``value`` is the mean of x over some dimensions, repeated to the shape of x."""
    if value.target is aten.expand.default:
        value = value.args[0]
    return value.target is aten.mean.dim and value.args[0] is x
