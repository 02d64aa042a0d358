"""Sizes as data: a number, the name of a symbol, or [form, *parts], in a small grammar of bounded expressions."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import sympy

from agf_fx.ir.types import BATCH, TARGETS

Size = int | sympy.Expr

_SYMBOLS = {"N": BATCH, "K": TARGETS}
_FORMS = {"Add": sympy.Add, "Mul": sympy.Mul, "Pow": sympy.Pow, "floor": sympy.floor, "Mod": sympy.Mod}
_COUNTS = {"Add": (2, 16), "Mul": (2, 16), "Pow": (2, 2), "floor": (1, 1), "Mod": (2, 2)}  # parts of a form
_LARGEST, _HIGHEST_POWER, _DEEPEST, _MOST = 2**48, 4, 8, 48


class BadSize(Exception):
    """No size that this grammar knows."""


def size_data(size: Size) -> Any:
    """A size as data.

    Raises:
        BadSize: there is no form for it.
    """
    data = _data(size)
    size_from(data)  # what is written can be read
    return data


def size_from(data: Any) -> Size:
    """The size that ``data`` stands for: built from its parts, nothing is evaluated.

    Raises:
        BadSize: an unknown form, or one that is too deep, too long, or has too large numbers.
    """
    return _Builder().build(data)


def _data(size: Size) -> Any:
    if isinstance(size, int):
        return size
    if size.is_Integer:
        return ["int", int(size)]
    if size in _SYMBOLS.values():
        return size.name
    if size.is_Rational:
        return ["ratio", int(size.p), int(size.q)]
    form = type(size).__name__
    if _FORMS.get(form) is not type(size):
        raise BadSize(f"a size {size}")
    return [form, *map(_data, size.args)]


class _Builder:
    """Builds one expression, and counts its parts."""

    def __init__(self) -> None:
        self._left = _MOST

    def build(self, data: Any, depth: int = 0) -> Size:
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            raise BadSize("a size of too many parts")
        if isinstance(data, str):
            if data not in _SYMBOLS:
                raise BadSize(f"a size in {data[:20]!r}")
            return _SYMBOLS[data]
        if not isinstance(data, list):
            return _whole(data)
        if not data or not isinstance(data[0], str):
            raise BadSize("a size without a form")
        form, *content = data
        if form == "int" and len(content) == 1:
            return sympy.Integer(_whole(content[0]))
        if form == "ratio" and len(content) == 2:
            return sympy.Rational(_whole(content[0]), _whole(content[1], smallest=1))
        return self._form(form, content, depth)

    def _form(self, form: str, content: list[Any], depth: int) -> sympy.Expr:
        fewest, most = _COUNTS.get(form, (1, 0))
        if not fewest <= len(content) <= most:
            raise BadSize(f"a size with the form {form[:20]!r} of {len(content)} parts")
        parts = [sympy.sympify(self.build(part, depth + 1)) for part in content]
        if form == "Pow" and not _is_power(*parts):
            raise BadSize("a power that no size has")
        if form == "Mod" and (parts[1].is_Integer is not True or parts[1] < 1):
            raise BadSize("a remainder that no size has")
        return _FORMS[form](*parts)


def _whole(value: Any, smallest: int = -_LARGEST) -> int:
    """A bounded integer: never a text, a truth value or a fraction."""
    if type(value) is not int or not smallest <= value <= _LARGEST:
        raise BadSize("a size that is no whole number within bounds")
    return value


def _is_power(base: sympy.Expr, exponent: sympy.Expr) -> bool:
    small = exponent.is_Integer and (exponent == -1 or 2 <= exponent <= _HIGHEST_POWER)
    return bool(small and not base.is_number)


def value_at(size: Size, images: int, targets: int) -> int | Fraction:
    """A size for numbers of images and targets.

    Raises:
        BadSize: it holds something else than the forms of this grammar.
    """
    if isinstance(size, int):
        return size
    if size.is_Rational:
        return int(size.p) if size.q == 1 else Fraction(int(size.p), int(size.q))
    if size == BATCH:
        return images
    if size == TARGETS:
        return targets
    parts = [value_at(part, images, targets) for part in size.args]
    if isinstance(size, sympy.Add):
        return sum(parts)
    if isinstance(size, sympy.Mul):
        return math.prod(parts)
    if isinstance(size, sympy.Pow):
        return Fraction(parts[0]) ** int(parts[1])
    if isinstance(size, sympy.floor):
        return math.floor(parts[0])
    if isinstance(size, sympy.Mod):
        return parts[0] % parts[1]
    raise BadSize(f"a size {size}")
