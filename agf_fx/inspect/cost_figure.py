"""What an explanation costs, as a figure: where operations, traffic and memory go, and how they grow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from agf_fx.errors import OptionsError
from agf_fx.imaging.figure import write
from agf_fx.inspect.formats import stream_colour
from agf_fx.ir.cost_model import SYMBOLS, Cost, in_words, substituted
from agf_fx.ir.views import PREPARATION, NodeView

ROWS = 24  # layers, those that take most
IMAGES = tuple(2**power for power in range(9))
TARGETS = (1, 2, 5, 10)
_FLOP, _BYTES = EngFormatter(unit="FLOP"), EngFormatter(unit="B")


def cost_figure(cost: Cost, images: int = 1, targets: int = 1) -> Figure:
    """Draw a cost: operations and bytes moved by layer and stream, bytes alive while the graph runs, and both totals
    as they grow with images and targets.

    Args:
        cost: in symbols, as ``explainer.cost()`` gives it.
        images: N of the bars and of the run.
        targets: K of them.

    Returns:
        A matplotlib `Figure`, made without pyplot.

    Raises:
        OptionsError: the cost has numbers in the place of N and K.
    """
    if cost.at:
        raise OptionsError("a figure shows how a cost grows; give explainer.cost() without numbers.")
    drawn = Figure(figsize=(14, 9.5), layout="constrained")
    drawn.suptitle(f"Cost of {cost.title}")
    grid = drawn.add_gridspec(3, 3, width_ratios=(1, 1, 1.5))
    operations = drawn.add_subplot(grid[:, 0])
    moved = drawn.add_subplot(grid[:, 1], sharey=operations)
    moved.tick_params(labelleft=False)
    of = f"N = {images}, K = {targets}"
    bars = _bars(cost, images, targets)
    parts = _parts(_run(cost))
    _draw_bars(operations, bars, parts, _flops, f"operations of one run, {of}", _FLOP)
    _draw_bars(moved, bars, parts, _moved, f"bytes moved, {of}", _BYTES)
    _draw_run(drawn.add_subplot(grid[0, 2]), cost, images, targets)
    _draw_growth(drawn.add_subplot(grid[1, 2]), cost, lambda at: at.flops, "operations of an explanation", _FLOP)
    _draw_growth(drawn.add_subplot(grid[2, 2]), cost, lambda at: at.memory, "peak memory, weights included", _BYTES)
    return drawn


def save(cost: Cost, path: str | os.PathLike[str], images: int = 1, targets: int = 1, dpi: float = 120) -> None:
    """Write the figure of a cost, whole or not at all.

    Raises:
        OptionsError: matplotlib writes no files with this ending; otherwise as `cost_figure`.
        OSError: the file cannot be written.
    """
    write(cost_figure(cost, images, targets), path, dpi)


@dataclass
class _Bar:
    """A layer: operations and bytes moved by stream."""

    name: str
    flops: dict[str, float] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)

    def add(self, view: NodeView, at: Callable[[object], float]) -> None:
        """Count an operation."""
        self.flops[view.part] = self.flops.get(view.part, 0.0) + (0.0 if view.flops is None else at(view.flops))
        self.moved[view.part] = self.moved.get(view.part, 0.0) + at(view.bytes)


def _bars(cost: Cost, images: int, targets: int) -> list[_Bar]:
    """The layers that take most operations or bytes, in order of execution, and the others together."""
    at = _numbers(images, targets)
    rows = {call: layer.name for layer in cost.layers for call in layer.calls}
    bars = {layer.name: _Bar(layer.name) for layer in cost.layers}
    for view in _run(cost):
        name = rows.get(view.site, view.place)
        bars.setdefault(name, _Bar(name)).add(view, at)
    every = [bar for bar in bars.values() if bar.flops]
    whole = [sum(sum(of(bar).values()) for bar in every) or 1.0 for of in (_flops, _moved)]

    def weight(bar: _Bar) -> float:
        return max(sum(of(bar).values()) / total for of, total in zip((_flops, _moved), whole, strict=True))

    kept = sorted(every, key=weight, reverse=True)[:ROWS]
    rest = _Bar(f"{len(every) - len(kept)} others")
    for bar in every:
        if bar not in kept:
            for into, of in ((rest.flops, bar.flops), (rest.moved, bar.moved)):
                for part, value in of.items():
                    into[part] = into.get(part, 0.0) + value
    shown = [bar for bar in every if bar in kept]
    return [*shown, rest] if len(every) > len(kept) else shown


def _flops(bar: _Bar) -> dict[str, float]:
    return bar.flops


def _moved(bar: _Bar) -> dict[str, float]:
    return bar.moved


def _numbers(images: int, targets: int) -> Callable[[object], float]:
    values = {SYMBOLS["N"]: images, SYMBOLS["K"]: targets}
    return lambda expression: float(substituted(expression, values))


def _draw_bars(
    axes: Axes,
    bars: Sequence[_Bar],
    parts: Sequence[str],
    of: Callable[[_Bar], dict[str, float]],
    title: str,
    unit: EngFormatter,
) -> None:
    names, places = [bar.name for bar in bars], range(len(bars))
    left = [0.0] * len(bars)
    for part in parts:
        lengths = [of(bar).get(part, 0.0) for bar in bars]
        axes.barh(places, lengths, left=left, color=stream_colour(part), label=part, edgecolor="#404040", linewidth=0.3)
        left = [a + b for a, b in zip(left, lengths, strict=True)]
    axes.set_yticks(places, names, parse_math=False)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 1.05 * max(left, default=0) or 1)
    axes.set_title(title, fontsize="medium")
    axes.xaxis.set_major_formatter(unit)
    axes.tick_params(axis="x", labelrotation=30)
    axes.legend(fontsize="small", loc="lower right")


def _run(cost: Cost) -> list[NodeView]:
    """The operations of a run, in order of execution."""
    return [view for view in cost.nodes if view.op not in ("input", "output") and view.part != PREPARATION]


def _parts(run: Iterable[NodeView]) -> list[str]:
    return sorted(dict.fromkeys(view.part for view in run), key=lambda part: part != "forward")


def _draw_run(axes: Axes, cost: Cost, images: int, targets: int) -> None:
    """Bytes alive, call by call, in the piece in which the graph runs."""
    number = cost(N=images, K=targets)
    at = _numbers(*(number.piece or number.given))
    run = _run(cost)
    alive = [at(view.live) for view in run]
    for part in _parts(run):
        inside = [view.part == part for view in run]
        axes.fill_between(range(len(run)), alive, where=inside, step="mid", color=stream_colour(part), label=part)
    highest = max(range(len(run)), key=lambda place: alive[place], default=0)
    if run:
        where = run[highest].place or run[highest].op
        axes.annotate(
            f"{in_words(alive[highest], 'B')} in {where}",
            (highest, alive[highest]),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right" if highest > len(run) / 2 else "left",
            fontsize="small",
            parse_math=False,
        )
        axes.set_ylim(0, 1.4 * max(alive[highest], 1))
    axes.set_xlim(0, max(len(run) - 1, 1))
    images, targets = number.piece or number.given
    axes.set_title(f"bytes alive in a run, {images} images with {targets} targets at once", fontsize="medium")
    axes.set_xlabel("operation", fontsize="small")
    axes.yaxis.set_major_formatter(_BYTES)
    axes.legend(fontsize="small", loc="upper center", ncols=4)


def _draw_growth(axes: Axes, cost: Cost, of: Callable[[Cost], object], title: str, unit: EngFormatter) -> None:
    for targets, style in zip(TARGETS, ("-", "--", "-.", ":"), strict=True):
        values = [float(of(cost(N=images, K=targets))) for images in IMAGES]
        axes.plot(IMAGES, values, style, marker=".", label=f"K = {targets}")
    axes.set_xscale("log", base=2)
    if unit is _FLOP:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(lambda *_: "")
    axes.set_xticks(IMAGES, [str(images) for images in IMAGES])
    axes.yaxis.set_major_formatter(unit)
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("images N", fontsize="small")
    axes.legend(fontsize="small")
