"""What the commands say: to whom, on one line, and with which exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version

import typer
from rich.console import Console

from agf_fx.errors import AgfFxError, OptionsError

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


def error_console() -> Console:
    """Console for everything that is not the answer: progress, notes and errors, on stderr."""
    return Console(stderr=True, highlight=False)


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


def version_text() -> str:
    """``agf-fx 1.2.3``, of the installed distribution."""
    try:
        return f"agf-fx {version('agf-fx')}"
    except PackageNotFoundError:
        return "agf-fx (not installed: run from its source folder)"


@contextmanager
def expected_errors(console: Console, *, status: int = FAILED) -> Iterator[None]:
    """Turn errors that have an explanation into one line and an exit status (wrong options: 2)."""
    try:
        yield
    except (AgfFxError, OSError) as error:
        say(console, f"error: {error}")
        raise typer.Exit(WRONG_USAGE if isinstance(error, OptionsError) else status) from error


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send what foreign code prints (model factories, downloads) to stderr; stdout is for the answer."""
    with redirect_stdout(sys.stderr):
        yield
