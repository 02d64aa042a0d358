"""``agf-fx cache``: what the cache on disk holds, and emptying it."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.filesize import decimal

from agf_fx.cli.console import error_console, expected_errors

app = typer.Typer(
    help="Compiled graphs on disk: see what there is, and remove it. AGF_FX_CACHE_DIR names another folder; "
    "AGF_FX_CACHE=memory keeps nothing on disk.",
    no_args_is_help=True,
)

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_DAY = 86_400


@app.command()
def info() -> None:
    """Say where the cache is and how much it holds."""
    from agf_fx import store as cache

    held = cache.info()
    typer.echo(f"folder    {held.folder}")
    typer.echo(f"graphs    {held.graphs} ({decimal(held.graph_bytes)})")
    typer.echo(f"inductor  {decimal(held.inductor_bytes)}")


@app.command()
def clear() -> None:
    """Remove everything that agf-fx has written there."""
    from agf_fx import store as cache

    with expected_errors(error_console()):
        held = cache.clear()
    typer.echo(f"removed {held.graphs} graphs and {decimal(held.graph_bytes + held.inductor_bytes)} from {held.folder}")


@app.command()
def prune(
    max_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="How much may stay, such as 500M or 2G; what was used last stays."),
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Remove what has not been used for so many days.")
    ] = None,
) -> None:
    """Remove what has not been used for longest."""
    if max_size is None and older_than is None:
        raise typer.BadParameter("say what may stay", param_hint="--max-size or --older-than")
    limit = None if max_size is None else _bytes(max_size)
    from agf_fx import store as cache

    with expected_errors(error_console()):
        removed = cache.prune(max_bytes=limit, older_than=None if older_than is None else older_than * _DAY)
    typer.echo(f"removed {decimal(removed)} from {cache.folder()}")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)i?b?", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size; give one such as 500M or 2G", param_hint="--max-size")
    return int(float(match[1]) * _UNITS[match[2]])
