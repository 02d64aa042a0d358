"""How far a run is, on a terminal, where it takes long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import Progress

LONG = 5.0  # seconds left from which a run says how far it is

Follow = Callable[[range, int, str], Iterator[int]]
"""Goes through the starts of pieces of so many things, which are called so, and may say how far it is."""


@contextmanager
def bar(total: int, what: str, *, silent: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar for the time of a block; yields what is called with how many of ``total`` are done.

    ``silent``: somebody else says how far it is, and a terminal has room for one bar.
    """
    began, shown = monotonic(), None
    with Progress(console=Console(stderr=True), transient=True, disable=silent or not sys.stderr.isatty()) as progress:

        def reached(done: int) -> None:
            nonlocal shown
            if shown is None and (monotonic() - began) / done * (total - done) > LONG:
                shown = progress.add_task(what, total=total)
            if shown is not None:
                progress.update(shown, completed=done)

        yield reached


def followed(starts: range, total: int, what: str) -> Iterator[int]:
    """The starts of pieces of a whole, and a bar of how many are done."""
    with bar(total, what) as reached:
        for first in starts:
            yield first
            reached(min(first + starts.step, total))


def unfollowed(starts: range, total: int, what: str) -> Iterator[int]:
    """The starts of pieces of a whole, of which somebody else says how many are done."""
    return iter(starts)
