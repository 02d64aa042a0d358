"""Explanation graphs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agf_fx.inspect.difference import GraphDifference, Kind
from agf_fx.inspect.stages import Stages, StepChange
from agf_fx.ir.cost_model import SYMBOLS, Cost, in_words, substituted
from agf_fx.ir.views import LayerView, NodeView

_LEAST_SHARE = 0.0005


def overview(cost: Cost, stages: Stages) -> RenderableType:
    """One screen: the layers with their rules and what they cost, the totals, and what every step changed.

    Args:
        cost: with numbers in the place of N and K.
        stages: of the same explainer.
    """
    graph = stages.optimised
    canonical = graph.canonical
    hoisted = len(graph.prepare.graph.nodes) if graph.prepare else 0
    title = (
        f"{canonical.name} by {graph.method}: images {canonical.image_type}, {len(canonical.calls)} calls -> "
        f"{len(graph)} nodes, {hoisted} prepared once"
    )
    return Group(Text(title, style="bold"), layers_table(cost), Text(totals(cost)), Text(), steps_table(stages.changes))


def layers_table(cost: Cost) -> Table:
    """Layers down, with role, rule, products and costs across."""
    given = ", ".join(f"{name}={value}" for name, value in cost.at.items())
    table = _table(None, "layer", "operation", "role", "rule", "form")
    for name in ("ops", "products", "FLOP", "bytes", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    values = {SYMBOLS[name]: value for name, value in cost.at.items()}
    for layer in cost.layers:
        table.add_row(*_layer_cells(layer, values))
    one = (substituted(part, values) for part in (_sum(cost, "flops"), _sum(cost, "bytes")))
    flops, moved = (in_words(value) if not value.is_number else _short(value) for value in one)
    counts = (str(sum(getattr(layer, name) for layer in cost.layers)) for name in ("nodes", "products"))
    table.add_section()
    table.add_row(Text(f"one run, {given}", style="bold"), "", "", "", "", *counts, flops, moved, "100 %")
    return table


def _sum(cost: Cost, name: str) -> object:
    return sum(getattr(layer, name) for layer in cost.layers)


def _layer_cells(layer: LayerView, values: dict) -> list[RenderableType]:
    share = f"{layer.share:.1%}".replace("%", " %") if layer.share >= _LEAST_SHARE else ""
    costs = (_short(substituted(part, values)) for part in (layer.flops, layer.bytes))
    roles = ", ".join(role for role in layer.role.split(", ") if len(layer.calls) == 1 or role in _TOLD)
    form = layer.form.replace(" and ", "+")
    return [
        Text(layer.name),
        _cut(layer.operation),
        _cut(roles),
        _cut(layer.rule),
        Text(form),
        str(layer.nodes),
        str(layer.products or ""),
        *costs,
        share,
    ]


def _short(value: object) -> str:
    return in_words(value, " ").strip() if value else ""


def totals(cost: Cost) -> str:
    """The totals on a few lines."""
    at = ", ".join(f"{name} = {value}" for name, value in cost.at.items())
    pieces = ""
    if cost.piece != cost.given:
        pieces = f", in pieces of {cost.piece[0]} images with {cost.piece[1]} targets"
    lines = [
        f"an explanation ({at}): {in_words(cost.flops, 'FLOP')}, {in_words(cost.bytes, 'B')} moved, "
        f"peak {in_words(cost.peak, 'B')}{pieces}",
        f"besides: weights {in_words(cost.weight_bytes, 'B')}, prepared {in_words(cost.prepared_bytes, 'B')} "
        f"(once, {in_words(cost.prepare_flops, 'FLOP')}), images {in_words(cost.image_bytes, 'B')}",
    ]
    if cost.points is not None:
        lines.append(f"the graph runs {in_words(cost.runs)} times: the method looks at S = {cost.at['S']} points")
    if cost.uncounted:
        lines.append(f"not counted, for want of a row: {', '.join(cost.uncounted)}")
    return "\n".join(lines)


def steps_table(changes: Sequence[StepChange]) -> Table:
    """What every step changed; steps that found nothing are named on one line."""
    table = _table(None, "step", "nodes", "what it changed")
    for change in changes:
        nodes = f"{change.before} -> {change.after}" if change.fired else str(change.after)
        words = change.in_words() if change.fired else "nothing"
        table.add_row(change.step, nodes, _cut("emitted, by the rules" if change.step == "emit" else words))
    return table


def operations_table(views: Iterable[NodeView], cost: Cost, title: str) -> RenderableType:
    """The operations of a layer with their equations, stream by stream."""
    values = {SYMBOLS[name]: value for name, value in cost.at.items()}
    streams: dict[str, list[NodeView]] = {}
    for view in views:
        streams.setdefault(view.part, []).append(view)
    parts: list[RenderableType] = [Text(title, style="bold")]
    for stream, rows in streams.items():
        table = _table(stream, "node", "call", "type", "rule")
        table.add_column("FLOP", justify="right", no_wrap=True)
        equation = ""
        for view in rows:
            if view.equation and view.equation != equation:
                equation = view.equation
                table.add_row("", Text(equation, style="bold"), "", "", "")
            shape = "" if view.shape is None else f"{view.dtype}[{', '.join(map(str, view.shape))}]"
            call = view.call.partition(" = ")[2] or view.call
            flops = "?" if view.flops is None else _short(substituted(view.flops, values))
            table.add_row(Text(view.name), Text(call), Text(shape), _cut(view.rule), flops)
        parts.append(table)
    return Group(*parts)


def difference_table(found: GraphDifference) -> RenderableType:
    """The layers that differ, what each graph does in them, and where relevance parts."""
    titles = Text(f"- {found.titles[0]}\n+ {found.titles[1]}", style="bold")
    differing, parted = found.differing(), found.departures
    table = _table(None, "layer", "rule")
    for name in ("ops", *_SHOWN, *(("apart", "cosine") if parted else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in differing:
        rules = dict.fromkeys(rule or "none" for rule in layer.rules) if any(layer.rules) else {}
        nodes = " -> ".join(map(str, dict.fromkeys(layer.nodes)))
        counts = (str(layer.counts[kind] or "") for kind in _SHOWN)
        at = layer.departure
        apart = () if parted is None else ("", "") if at is None else (f"{at.difference:.2g}", f"{at.cosine:.3f}")
        table.add_row(Text(layer.name), _cut(" -> ".join(rules)), nodes, *counts, *apart)
    rest = len(found.layers) - len(differing)
    said = [f"{rest} other layers differ by what comes to them, if at all"] if rest and differing else []
    if not differing:
        said = ["no layer differs"]
    if found.counts:
        said.append(f"operations: {', '.join(f'{count} {kind}' for kind, count in found.counts.most_common())}")
    said += parted.lines() if parted else []
    return Group(titles, *([table] if differing else []), Text("\n".join(said)))


def _table(title: str | None, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", title_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=name not in _NARROWED)
    return table


_SHOWN = (Kind.REMOVED, Kind.ADDED, Kind.CHANGED, Kind.MOVED)
_NARROWED = ("operation", "role", "rule", "call", "what it changed")  # where the terminal is narrow
_TOLD = ("input layer", "head", "residual merge", "flatten boundary", "gate", "attention")  # the others are details


def _cut(words: str) -> Text:
    """Words that stay on one line, as many as there is room for."""
    return Text(words, no_wrap=True, overflow="ellipsis")
