"""``agf-fx methods``: the methods that explain, and their options."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agf_fx.cli.console import WRONG_USAGE, error_console, expected_errors

_PIPED = 160  # columns
_BETWEEN = 6  # of the three columns of a table

if TYPE_CHECKING:
    from agf_fx.methods.registry import Entry


def methods(
    name: Annotated[str | None, typer.Argument(help="One method, with its options.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the explanation methods, or the options of one: agf-fx explain --method NAME --option NAME=VALUE."""
    from agf_fx.methods import REGISTRY

    with expected_errors(error_console(), status=WRONG_USAGE):
        entries = [*REGISTRY.values()] if name is None else [REGISTRY[name]]
    if json:
        typer.echo(json_module.dumps([_described(entry) for entry in entries], indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPED)  # whole lines for grep
    console.print(_overview(entries, console.width) if name is None else _one(entries[0]))


def _overview(entries: list[Entry], width: int) -> Table:
    """A line of ``width`` columns for each method, and what the letters in it stand for."""
    properties = [name.replace("_", "-") for name in entries[0].properties._fields]
    legend = ", ".join(f"{name[0]}: {name}" for name in properties)
    table = Table(box=None, padding=(0, 1), caption=f"{legend}.\nagf-fx methods NAME shows the options of one.")
    table.caption_justify = "left"
    widest = max(len(entry.name) for entry in entries)
    for title in ("method", "", "what it is"):
        table.add_column(title)
    for entry in entries:
        held = zip(properties, entry.properties, strict=True)
        said = Text(entry.title)
        said.truncate(width - widest - len(properties) - _BETWEEN, overflow="ellipsis")
        table.add_row(entry.name, "".join(name[0] if holds else "·" for name, holds in held), said)
    return table


def _one(entry: Entry) -> Table:
    from agf_fx.methods.registry import documented

    table = Table("option", "default", "", title=f"{entry.name}: {entry.title}\n{entry.citation}", box=None)
    table.title_justify = "left"
    descriptions = documented(entry.options)
    for name, default in _defaults(entry).items():
        table.add_row(name, _text(default), descriptions.get(name, ""))
    if not table.rows:
        table.add_row("none", "", "")
    return table


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "citation": entry.citation,
        "properties": entry.properties._asdict(),
        "options": _defaults(entry),
    }


def _defaults(entry: Entry) -> dict[str, Any]:
    from agf_fx.methods.registry import plain

    return plain(entry.options())


def _text(value: object) -> str:
    """A value as ``--option`` takes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
