"""The command line ``agf-fx``: explain images, compare and evaluate methods, inspect and export graphs."""

from __future__ import annotations

from typing import Annotated

import typer

from agf_fx.cli import cache
from agf_fx.cli.compare import compare
from agf_fx.cli.console import version_text
from agf_fx.cli.evaluate import evaluate
from agf_fx.cli.explain import explain
from agf_fx.cli.export import export
from agf_fx.cli.inspect import inspect
from agf_fx.cli.methods import methods
from agf_fx.cli.models import models

app = typer.Typer(
    name="agf-fx",
    help="Class-specific heat maps for PyTorch image classifiers, computed by a compiled explanation graph.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(explain)
app.command()(compare)
app.command()(evaluate)
app.command()(inspect)
app.command()(export)
app.command()(methods)
app.command()(models)
app.add_typer(cache.app, name="cache")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version_text())
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 something failed, 2 wrong usage, 130 interrupted."""
    app()
