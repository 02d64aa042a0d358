"""Symbolic numbers: expressions that know their value at one point.

What code asks of a number, its sign, whether it is 0, which of two is larger, is answered at that point, and the
expression goes on as it does there. So an identity between results holds wherever all of these questions have the same
answers, which is an open set around the point; a handful of points covers the cases that a rule tells apart. A point at
which a question has no answer, because the value is 0 and the expression is not, is refused.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import sympy

from agf_fx.errors import OptionsError
from agf_fx.inspect.certificates.vanishing import vanishes

NEAR = 1e-12
"""Of values: what lies so near 0 must be 0."""


def _of_numbers(method: Callable[[Number, Number], Number]) -> Callable[[Number, Any], Any]:
    """Let an array combine with a number entry by entry."""

    @functools.wraps(method)
    def combined(self: Number, other: Any) -> Any:
        return NotImplemented if isinstance(other, np.ndarray) else method(self, number(other))

    return combined


class Number:
    """An expression, and its value at a point."""

    __slots__ = ("expression", "value")

    def __init__(self, expression: sympy.Expr | int, value: float) -> None:
        self.expression, self.value = sympy.sympify(expression), value

    @_of_numbers
    def __add__(self, other: Number) -> Number:
        return Number(self.expression + other.expression, self.value + other.value)

    @_of_numbers
    def __sub__(self, other: Number) -> Number:
        return Number(self.expression - other.expression, self.value - other.value)

    @_of_numbers
    def __mul__(self, other: Number) -> Number:
        if not (self.expression and other.expression):  # also of what is infinite, as of masked scores
            return Number(0, 0.0)
        return Number(self.expression * other.expression, self.value * other.value)

    @_of_numbers
    def __truediv__(self, other: Number) -> Number:
        if not sign(other):
            raise ZeroDivisionError(f"{self} / {other}")
        return Number(self.expression / other.expression, self.value / other.value)

    @_of_numbers
    def __pow__(self, other: Number) -> Number:
        return Number(self.expression**other.expression, self.value**other.value)

    def __neg__(self) -> Number:
        return Number(-self.expression, -self.value)

    @_of_numbers
    def __radd__(self, other: Number) -> Number:
        return other + self

    @_of_numbers
    def __rsub__(self, other: Number) -> Number:
        return other - self

    @_of_numbers
    def __rmul__(self, other: Number) -> Number:
        return other * self

    @_of_numbers
    def __rtruediv__(self, other: Number) -> Number:
        return other / self

    def __abs__(self) -> Number:
        return -self if sign(self) < 0 else self

    def __bool__(self) -> bool:
        return bool(sign(self))

    def __int__(self) -> int:
        return int(self.value)

    def __repr__(self) -> str:
        return str(self.expression)


def number(value: Any) -> Number:
    """A Number as it is; anything else as the rational number that it is."""
    if isinstance(value, Number):
        return value
    return Number(sympy.sympify(value) if isinstance(value, sympy.Basic) else sympy.Rational(value), float(value))


def is_zero(a: Number) -> bool:
    """Whether an expression is 0, whatever its symbols."""
    near = math.isnan(a.value) or abs(a.value) < 1e-6  # not a number: nobody has asked for the value
    return near and vanishes(a.expression)


def sign(a: Number) -> int:
    """-1, 0 or 1.

    Raises:
        OptionsError: the point lies where the sign changes.
    """
    if abs(a.value) > NEAR:
        return 1 if a.value > 0 else -1
    if vanishes(a.expression):
        return 0
    raise OptionsError(f"{a.expression} is 0 at the point, but not around it; choose another point.")


def greater(a: Any, b: Any) -> Number:
    """The larger of two; of infinite ones, by their values."""
    a, b = number(a), number(b)
    if math.isinf(a.value) or math.isinf(b.value):
        return a if a.value >= b.value else b
    return a if sign(a - b) >= 0 else b


def less(a: Any, b: Any) -> Number:
    """The smaller of two."""
    return -greater(-number(a), -number(b))


def entrywise(function: Callable[..., Any], count: int = 1) -> Callable[..., Any]:
    """A function of numbers as one of arrays, also of arrays without dimensions."""
    apply = np.frompyfunc(function, count, 1)

    def applied(*arrays: Any) -> Any:
        found = apply(*arrays)
        return found if isinstance(found, np.ndarray) else np.array(found, dtype=object)

    return applied


numbers = entrywise(number)
"""An array with a Number for every entry."""


def symbols(name: str, values: Any) -> np.ndarray:
    """An array of symbols that have these values, and their signs; 0 is 0, and no symbol."""
    values = np.array(values, dtype=object)
    found = np.empty(values.shape, dtype=object)
    for place, index in enumerate(np.ndindex(*values.shape), 1):
        value = values[index]
        sides = {"positive": True} if value > 0 else {"negative": True}
        label = name if values.ndim == 0 or values.size == 1 else f"{name}_{place}"
        found[index] = Number(sympy.Symbol(label, **sides), float(value)) if value else number(0)
    return found


def logs(powers: np.ndarray) -> np.ndarray:
    """Values whose exponentials are these numbers."""
    return entrywise(lambda power: Number(sympy.log(power.expression), math.log(power.value)))(powers)


def total(array: Iterable[Any]) -> Number:
    """The sum of numbers."""
    return functools.reduce(operator.add, array, number(0))
