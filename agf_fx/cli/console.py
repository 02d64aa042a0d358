"""What the commands say: to whom, on one line, and with which exit status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from agf_fx.errors import AgfFxError, OptionsError
from agf_fx.runs.console import say
from agf_fx.version import UNKNOWN, own_version

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


def error_console() -> Console:
    """Console for everything that is not the answer: progress, notes and errors, on stderr."""
    return Console(stderr=True, highlight=False)


def version_text() -> str:
    """``agf-fx 1.2.3``, of the installed distribution."""
    version = own_version()
    return f"agf-fx {version}" if version != UNKNOWN else "agf-fx (not installed: run from its source folder)"


@contextmanager
def expected_errors(console: Console, *, status: int = FAILED) -> Iterator[None]:
    """Turn errors that have an explanation into one line and an exit status (wrong options: 2)."""
    try:
        yield
    except (AgfFxError, OSError) as error:
        say(console, f"error: {error}")
        raise typer.Exit(WRONG_USAGE if isinstance(error, OptionsError) else status) from error
