"""Arrays of symbolic numbers that stand in for tensors, so that a rule's own code computes formulas."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from agf_fx.inspect.certificates.functions import FUNCTIONS
from agf_fx.inspect.certificates.numbers import Number, entrywise, number, numbers, sign


class Symbolic:
    """An array of numbers that answers the functions of torch that rules call."""

    def __init__(self, entries: Any) -> None:
        array = np.array(entries, dtype=object)
        self.entries = numbers(array)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if function not in FUNCTIONS:
            raise NotImplementedError(
                f"{function} on symbols: add it to agf_fx.inspect.certificates.functions.FUNCTIONS"
            )
        return _wrapped(FUNCTIONS[function](*map(exact, args), **(kwargs or {})))

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes."""
        return self.entries.shape

    def dim(self) -> int:
        """The number of dimensions."""
        return self.entries.ndim

    def __getitem__(self, index: Any) -> Symbolic:
        return Symbolic(self.entries[index])

    def __neg__(self) -> Symbolic:
        return Symbolic(-self.entries)

    __hash__ = object.__hash__  # as that of a tensor


def _wrapped(found: Any) -> Any:
    """Arrays as Symbolics; sizes as they are."""
    if isinstance(found, tuple):
        return tuple(map(_wrapped, found))
    return found if isinstance(found, int) else Symbolic(found)


def exact(value: Any) -> Any:
    """The content of a Symbolic, also in lists; anything else as it is."""
    if isinstance(value, Symbolic):
        return value.entries
    if isinstance(value, list):
        return [exact(item) for item in value]
    return value


def _operator(function: Callable[[Any, Any], Any], reflected: bool = False) -> Callable[..., Symbolic]:
    def method(self: Symbolic, other: Any) -> Symbolic:
        operands = [self.entries, exact(other)]
        return Symbolic(function(*reversed(operands) if reflected else operands))

    return method


def _comparison(holds: Callable[[int], bool]) -> Callable[..., Any]:
    return entrywise(lambda a, b: Number(int(holds(sign(number(a) - b))), float(holds(sign(number(a) - b)))), 2)


_COMPARISONS = {
    "__eq__": _comparison(lambda s: s == 0),
    "__ne__": _comparison(lambda s: s != 0),
    "__lt__": _comparison(lambda s: s < 0),
    "__le__": _comparison(lambda s: s <= 0),
    "__gt__": _comparison(lambda s: s > 0),
    "__ge__": _comparison(lambda s: s >= 0),
}
for _name, _function in _COMPARISONS.items():
    setattr(Symbolic, _name, _operator(_function))
for _name in ("add", "sub", "mul", "truediv"):
    setattr(Symbolic, f"__{_name}__", _operator(getattr(operator, _name)))
    setattr(Symbolic, f"__r{_name}__", _operator(getattr(operator, _name), reflected=True))


def expressions(array: Any) -> list[sympy.Expr]:
    """The expressions of an array, in order."""
    return [entry.expression for entry in np.asarray(exact(array), dtype=object).flat]
