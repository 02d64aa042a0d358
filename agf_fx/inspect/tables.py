"""Explanation graphs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from agf_fx.inspect.difference import GraphDifference, Kind
from agf_fx.inspect.fitting import Column, FittingTable
from agf_fx.inspect.stages import Stages, StepChange
from agf_fx.ir.cost_model import SYMBOLS, Cost, in_words, substituted
from agf_fx.ir.views import LayerView, NodeView

_LEAST_SHARE = 0.0005


def overview(cost: Cost, stages: Stages, brief: bool = False) -> RenderableType:
    """One screen: the layers with their rules and what they cost, the totals, and what every step changed.

    Columns for which a terminal is too narrow are left out.

    Args:
        cost: with numbers in the place of N and K.
        stages: of the same explainer.
        brief: have no row for each step.
    """
    graph = stages.optimised
    canonical = graph.canonical
    hoisted = len(graph.prepare.graph.nodes) if graph.prepare else 0
    title = (
        f"{canonical.name} by {graph.method}: images {canonical.image_type}, {len(canonical.calls)} calls -> "
        f"{len(graph)} nodes, {hoisted} prepared once"
    )
    steps = steps_line(stages.changes) if brief else steps_table(stages.changes)
    return Group(Text(title, style="bold"), layers_table(cost), Text(totals(cost)), Text(), steps)


_LAYER_COLUMNS = (
    Column("layer", wraps=True),
    Column("operation", enough=10, leaves=6),
    Column("role", enough=14, leaves=8),
    Column("rule", enough=24, wraps=True),
    Column("form", leaves=4),
    Column("ops", right=True, leaves=3),
    Column("products", right=True, leaves=5),
    Column("FLOP", right=True, leaves=7),
    Column("bytes", right=True, leaves=2),
    Column("alive", right=True, leaves=1),
    Column("share", right=True),
)


def layers_table(cost: Cost) -> FittingTable:
    """Layers down, with role, rule, products and costs across."""
    given = ", ".join(f"{name}={value}" for name, value in cost.at.items())
    table = FittingTable(_LAYER_COLUMNS)
    values = {SYMBOLS[name]: value for name, value in cost.at.items()}
    for layer in cost.layers:
        table.add_row(*_layer_cells(layer, values))
    one = (substituted(part, values) for part in (_sum(cost, "flops"), _sum(cost, "bytes")))
    flops, moved = (in_words(value) if not value.is_number else _short(value) for value in one)
    alive = _short(substituted(cost.graph_peak, values))
    counts = (str(sum(getattr(layer, name) for layer in cost.layers)) for name in ("nodes", "products"))
    each = "one run" if cost.points is None else "one run at one point"
    table.add_row(Text(f"{each}, {given}", style="bold"), "", "", "", "", *counts, flops, moved, alive, "100 %")
    return table


def _sum(cost: Cost, name: str) -> object:
    return sum(getattr(layer, name) for layer in cost.layers)


def _layer_cells(layer: LayerView, values: dict) -> list[str]:
    share = f"{layer.share:.1%}".replace("%", " %") if layer.share >= _LEAST_SHARE else ""
    costs = (_short(substituted(part, values)) for part in (layer.flops, layer.bytes, layer.live))
    roles = [role for role in layer.role.split(", ") if len(layer.calls) == 1 or role in _TOLD]
    return [
        layer.name,
        layer.operation,
        ", ".join(sorted(roles, key=lambda role: role not in _TOLD)),
        layer.rule,
        layer.form.replace(" and ", "+"),
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


def steps_table(changes: Sequence[StepChange]) -> FittingTable:
    """What every step changed."""
    table = FittingTable((Column("step"), Column("nodes"), Column("what it changed", enough=20)))
    for change in changes:
        nodes = f"{change.before} -> {change.after}" if change.fired else str(change.after)
        words = change.in_words() if change.fired else "nothing"
        table.add_row(change.step, nodes, "emitted, by the rules" if change.step == "emit" else words)
    return table


def steps_line(changes: Sequence[StepChange]) -> Text:
    """The same on a line."""
    fired = [change for change in changes[1:] if change.fired]
    return Text(
        f"steps: {changes[0].after} nodes emitted, {changes[-1].after} behind the {len(fired)} steps that changed "
        "something; a taller terminal, or a file, has a row for each"
    )


def operations_table(views: Iterable[NodeView], cost: Cost, title: str) -> RenderableType:
    """The operations of a layer with their equations, stream by stream."""
    values = {SYMBOLS[name]: value for name, value in cost.at.items()}
    streams: dict[str, list[NodeView]] = {}
    for view in views:
        streams.setdefault(view.part, []).append(view)
    parts: list[RenderableType] = [Text(title, style="bold")]
    for stream, rows in streams.items():
        table = FittingTable(_OPERATION_COLUMNS, stream)
        equation = ""
        for view in rows:
            if view.equation and view.equation != equation:
                equation = view.equation
                table.add_row("", Text(equation, style="bold"), *[""] * (len(_OPERATION_COLUMNS) - 2))
            shape = "" if view.shape is None else f"{view.dtype}[{', '.join(map(str, view.shape))}]"
            call = view.call.partition(" = ")[2] or view.call
            flops = "?" if view.flops is None else _short(substituted(view.flops, values))
            moved = (_short(substituted(part, values)) for part in (view.bytes, view.live))
            table.add_row(view.name, call, shape, view.rule, flops, *moved)
        parts.append(table)
    return Group(*parts)


_SHOWN = (Kind.REMOVED, Kind.ADDED, Kind.CHANGED, Kind.MOVED)
_DIFFERENCE_COLUMNS = (
    Column("layer", wraps=True),
    Column("rule", enough=24, wraps=True),
    Column("ops", right=True, leaves=3),
    *(Column(str(kind), right=True, leaves=4 + place) for place, kind in enumerate(reversed(_SHOWN))),
    Column("apart", right=True, leaves=10),
    Column("cosine", right=True, leaves=9),
)


def difference_table(found: GraphDifference) -> RenderableType:
    """The layers that differ, what each graph does in them, and where relevance parts."""
    titles = Text(f"- {found.titles[0]}\n+ {found.titles[1]}", style="bold")
    differing, parted = found.differing(), found.departures
    table = FittingTable(_DIFFERENCE_COLUMNS)
    for layer in differing:
        rules = dict.fromkeys(rule or "none" for rule in layer.rules) if any(layer.rules) else {}
        nodes = " -> ".join(map(str, dict.fromkeys(layer.nodes)))
        counts = (str(layer.counts[kind] or "") for kind in reversed(_SHOWN))
        at = layer.departure
        apart = ("", "") if at is None else (f"{at.difference:.2g}", f"{at.cosine:.3f}")
        table.add_row(layer.name, " -> ".join(rules), nodes, *counts, *apart)
    rest = len(found.layers) - len(differing)
    said = [f"{rest} other layers differ by what comes to them, if at all"] if rest and differing else []
    if not differing:
        said = ["no layer differs"]
    if found.inputs:
        said.append(f"values that differ: {', '.join(found.inputs)}")
    if found.counts:
        said.append(f"operations: {', '.join(f'{count} {kind}' for kind, count in found.counts.most_common())}")
    said += parted.lines() if parted else []
    return Group(titles, *([table] if differing else []), Text("\n".join(said)))


_OPERATION_COLUMNS = (
    Column("node"),
    Column("call", enough=32, wraps=True),
    Column("type"),
    Column("rule", leaves=3),
    Column("FLOP", right=True, leaves=4),
    Column("bytes", right=True, leaves=1),
    Column("alive", right=True, leaves=2),
)
_TOLD = ("input layer", "head", "residual merge", "flatten boundary", "gate", "attention")  # the others are details
