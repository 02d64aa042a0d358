"""What is being computed, by which rule, for which layer: labels that the emitted nodes keep.

The driver and the rules say what they do by entering a scope; on tensors the scopes have no effect.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Label:
    """The origin of a node: ``stream`` (forward, gradient, relevance, read-out), the rule, the layer's path and the
    canonical call (``site``) to which it is applied, and the formula."""

    stream: str = ""
    rule: str = ""
    layer: str = ""
    site: str = ""
    symbol: str = ""
    equation: str = ""

    def as_meta(self) -> dict[str, str]:
        """The fields, as node metadata."""
        return asdict(self)


_NOTHING = Label()
_label: ContextVar[Label] = ContextVar("agf_fx_label", default=_NOTHING)


def current_label() -> Label:
    """The label of what is being computed now."""
    return _label.get()


@contextmanager
def scope(**changes: str) -> Iterator[None]:
    """Label everything computed inside."""
    token = _label.set(replace(_label.get(), **changes))
    try:
        yield
    finally:
        _label.reset(token)


def formula(symbol: str, equation: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as the evaluation of one formula; its nodes carry the symbol and the equation."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def labelled(*args: Any, **kwargs: Any) -> R:
            with scope(symbol=symbol, equation=equation):
                return function(*args, **kwargs)

        labelled.equation = equation
        return labelled

    return decorate
