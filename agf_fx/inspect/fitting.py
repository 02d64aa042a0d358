"""Tables that fit the terminal: what matters least is left out first, and what is left out is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_GAP = 2  # between columns
_NARROWEST = 8  # that a column becomes, even where nothing fits


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: its title.
        right: whether cells stand on the right.
        enough: a width with which it can be read; None: that of its widest cell.
        wraps: whether cells take several lines where they are too long, and are not cut.
        leaves: its turn to be left out, 1 first; None: it stays.
    """

    name: str
    right: bool = False
    enough: int | None = None
    wraps: bool = False
    leaves: int | None = None


@dataclass
class FittingTable:
    """Columns and rows, of which as many columns are drawn as there is room for.

    Attributes:
        columns: from left to right.
        title: above them; "" for none.
    """

    columns: Sequence[Column]
    title: str = ""
    _rows: list[list[Text]] = field(default_factory=list)

    def add_row(self, *cells: str | Text) -> None:
        """A row: a cell for every column."""
        self._rows.append([cell if isinstance(cell, Text) else Text(cell) for cell in cells])

    def widths(self, room: int) -> dict[str, int]:
        """Column -> width, of the columns that are drawn in so much room."""
        natural = {column.name: self._natural(place) for place, column in enumerate(self.columns)}
        least = {c.name: min(natural[c.name], c.enough or natural[c.name]) for c in self.columns}
        kept = [column.name for column in self._telling if not column.leaves]
        for column in sorted(self._telling, key=lambda column: -(column.leaves or 0)):
            if column.leaves and _whole(least, [*kept, column.name]) <= room:
                kept.append(column.name)
        kept = [column.name for column in self.columns if column.name in kept]
        found = {name: least[name] for name in kept}
        for name in kept:  # what is left goes to columns that have more to say
            found[name] += max(0, min(natural[name] - found[name], room - _whole(found, kept)))
        for name in sorted(kept, key=lambda name: -found[name]):  # the widest give way where even the least is too much
            found[name] -= max(0, min(found[name] - _NARROWEST, _whole(found, kept) - room))
        return found

    @property
    def _telling(self) -> list[Column]:
        """The columns that say something in some row; and those that stay whatever they say."""
        says = [any(row[place].plain for row in self._rows) for place in range(len(self.columns))]
        return [column for column, some in zip(self.columns, says, strict=True) if some or not column.leaves]

    def _natural(self, place: int) -> int:
        cells = (row[place].plain for row in self._rows)
        return max(cell_len(text) for text in (self.columns[place].name, *cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self.widths(options.max_width)
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold", title_style="bold")
        table.title, table.title_justify = self.title or None, "left"
        shown = [(place, column) for place, column in enumerate(self.columns) if column.name in widths]
        for _, column in shown:
            table.add_column(
                column.name,
                justify="right" if column.right else "left",
                width=widths[column.name],
                no_wrap=not column.wraps,
                overflow="fold" if column.wraps else "ellipsis",
            )
        for row in self._rows:
            table.add_row(*(row[place] for place, _ in shown))
        yield table
        left_out = [column.name for column in self._telling if column.name not in widths]
        if left_out:
            yield Text(f"(for want of room without: {', '.join(left_out)})", style="dim")


def _whole(widths: dict[str, int], names: Sequence[str]) -> int:
    return sum(widths[name] for name in names) + _GAP * (len(names) - 1)
