"""An explanation graph as a table of HTML, for notebooks."""

from __future__ import annotations

import html

from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.views import LayerView, screen_depth

_ROWS = 24
_COLUMNS = ("layer", "operation", "role", "rule", "form", "operations", "products", "share of cost")
_NUMBERS = 3  # columns from the right that hold numbers
_LEAST_SHARE = 0.0005


def layers_html(explanation: ExplanationGraph) -> str:
    """The layers, modules taken together until they fit a screen. Names of the model are escaped."""
    rows = explanation.layers(screen_depth(explanation, _ROWS))
    head = "".join(_cell("th", name, place) for place, name in enumerate(_COLUMNS))
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    caption = html.escape(repr(explanation))
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: LayerView) -> str:
    share = f"{row.share:.1%}".replace("%", " %") if row.share >= _LEAST_SHARE else ""
    values = (row.name, row.operation, row.role, row.rule, row.form, row.nodes, row.products, share)
    return "".join(_cell("td", value, place) for place, value in enumerate(values))


def _cell(tag: str, value: object, place: int) -> str:
    side = "right" if place >= len(_COLUMNS) - _NUMBERS else "left"
    return f'<{tag} style="text-align: {side}">{html.escape(str(value))}</{tag}>'
