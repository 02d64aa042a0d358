"""What is said about a run: on one line, to people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from rich.console import Console

from agf_fx.errors import AgfFxError


def printable(text: str) -> str:
    """``text`` without line breaks, control characters or undecodable bytes of file names."""
    text = " ".join(text.split())
    kept = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return "".join(kept)


def say(console: Console, text: str) -> None:
    """Print one line as it is, however narrow the terminal."""
    console.print(printable(text), markup=False, soft_wrap=True)


def describe(error: BaseException) -> str:
    """Message of an error; an unexpected one is shown with its type."""
    return str(error) if isinstance(error, AgfFxError | OSError) else f"{type(error).__name__}: {error}"


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send what foreign code prints (model factories, downloads) to stderr; stdout is for the answer."""
    with redirect_stdout(sys.stderr):
        yield
