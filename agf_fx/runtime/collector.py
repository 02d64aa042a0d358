"""Python's collector of cycles, out of the way while many objects are made that all stay."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def collector_waiting() -> Iterator[Callable[[], None]]:
    """Let the collector wait until the block ends, or until what is yielded is called because the block will take long.

    Every few thousand new objects it looks through all that a process has; with graphs to read, that is a quarter of
    the time that finding a compiled network takes.
    """
    if not gc.isenabled():
        yield lambda: None
        return
    gc.disable()
    try:
        yield gc.enable
    finally:
        gc.enable()
