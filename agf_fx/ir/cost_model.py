"""What an explanation costs: operations, bytes moved and peak memory as expressions in images, targets and points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import sympy

from agf_fx.errors import OptionsError
from agf_fx.ir.costs import bytes_of, total
from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.liveness import Copies, copies, peak_expression
from agf_fx.ir.types import BATCH, TARGETS
from agf_fx.ir.views import PREPARATION, LayerView, NodeView, layer_views, node_views

POINTS = sympy.Symbol("S", integer=True, positive=True)
SYMBOLS = {"N": BATCH, "K": TARGETS, "S": POINTS}

Piece = Callable[[int, int], tuple[int, int]]
"""(images, targets of each) -> how many of them are explained at once."""


@dataclass(frozen=True, repr=False)
class Cost:
    """The cost of explaining N images for K targets each, by looking at S points, where the method looks at points.

    Height and width of the images are those that the graph was captured with, and part of its numbers. Call it with
    numbers to get the same with these in their place: ``cost(N=64, K=5)``. Print it for a table.

    Attributes:
        title: what it is the cost of.
        flops: floating-point operations, as `agf_fx.ir.flops` counts them.
        product_flops: those of convolutions and products of matrices among them.
        bytes: read and written by operations, each operand once.
        graph_peak: most bytes alive in one run of the graph on N images with K targets each; always an expression.
        prepare_flops: operations done once per set of weights.
        weight_bytes: of parameters, buffers and constants of the model.
        prepared_bytes: of what is prepared from them.
        image_bytes: of the images.
        result_bytes: of what the graph returns at once: maps and logits.
        runs: how often the graph runs, of methods that look at points; else 1.
        batch: images and targets that the graph is given at once, which are more than N where points count as images.
        held: bytes alive meanwhile besides, such as running sums over points.
        least_peak: bytes that a call takes before the graph runs, to see whether weights have changed.
        points: the number of points that S stands for; None for methods without.
        at: what stands in the place of symbols.
        layers: rows of the layers, at the depth asked for; of one run of the graph.
        nodes: rows of the operations, likewise.
        uncounted: operations without a row, which the operations do not count.
        largest_piece: how the runtime takes a batch apart; None: not at all.
    """

    title: str
    flops: sympy.Expr
    product_flops: sympy.Expr
    bytes: sympy.Expr
    graph_peak: sympy.Expr
    prepare_flops: sympy.Expr = sympy.S.Zero
    weight_bytes: sympy.Expr = sympy.S.Zero
    prepared_bytes: sympy.Expr = sympy.S.Zero
    image_bytes: sympy.Expr = sympy.S.Zero
    result_bytes: sympy.Expr = sympy.S.Zero
    runs: sympy.Expr = sympy.S.One
    batch: tuple[sympy.Expr, sympy.Expr] = (BATCH, TARGETS)
    held: sympy.Expr = sympy.S.Zero
    least_peak: int = 0
    points: int | None = None
    at: Mapping[str, int] = field(default_factory=dict)
    layers: tuple[LayerView, ...] = ()
    nodes: tuple[NodeView, ...] = ()
    uncounted: tuple[str, ...] = ()
    largest_piece: Piece | None = None

    def __call__(self, N: int | None = None, K: int | None = None, S: int | None = None) -> Cost:
        """The cost with numbers in the place of symbols; what is not given stays a symbol.

        Args:
            N: images.
            K: targets of each image.
            S: points; by default as many as the method has, once N or K is given.

        Raises:
            OptionsError: a number is not a whole number above 0.
        """
        given = {"N": N, "K": K, "S": S}
        for name, value in given.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
                raise OptionsError(f"{name} is {value!r}; give a whole number of 1 or more.")
            given[name] = value if value is None else int(value)
        if S is None and (N is not None or K is not None):
            given["S"] = self.points
        at = {name: value for name, value in given.items() if value is not None and name not in self.at}
        values = {SYMBOLS[name]: value for name, value in at.items()}
        changed = {name: substituted(getattr(self, name), values) for name in _EXPRESSIONS}
        return replace(self, **changed, at={**self.at, **at})

    @property
    def given(self) -> tuple[int, int] | None:
        """Images, and targets of each, that the graph is given at once; None while N or K is a symbol."""
        if not {"N", "K"} <= {*self.at}:
            return None
        images, targets = (int(substituted(size, self._values)) for size in self.batch)
        return images, targets

    @property
    def piece(self) -> tuple[int, int] | None:
        """Images, and targets of each, of the largest piece of these in which they pass the graph; None likewise."""
        given = self.given
        return given if given is None or self.largest_piece is None else self.largest_piece(*given)

    @property
    def peak(self) -> sympy.Expr:
        """Most bytes alive at once, besides weights, prepared constants and the images.

        With numbers for N and K, that of the largest piece, and the results of all pieces; else that of all at once.
        """
        images, targets = self.piece or self.batch
        once = substituted(substituted(self.graph_peak, {BATCH: images, TARGETS: targets}), self._values)
        results = self.result_bytes if self.piece != self.given else sympy.S.Zero
        whole = once + substituted(self.held, self._values) + results
        return sympy.Max(whole, self.least_peak) if whole.is_number else whole

    @property
    def _values(self) -> dict[sympy.Symbol, int]:
        return {SYMBOLS[name]: value for name, value in self.at.items()}

    @property
    def memory(self) -> sympy.Expr:
        """Bytes of all of it: weights, what is prepared, images, and the peak of what is alive besides."""
        return self.weight_bytes + self.prepared_bytes + self.image_bytes + self.peak

    @property
    def intensity(self) -> sympy.Expr:
        """Operations per byte moved."""
        return self.flops / self.bytes

    def rows(self) -> list[tuple[str, sympy.Expr, str]]:
        """Name, expression or number, and unit of every total, for tables."""
        found = [
            ("operations", self.flops, "FLOP"),
            ("of these in convolutions and products", self.product_flops, "FLOP"),
            ("bytes moved", self.bytes, "B"),
            ("peak memory besides weights and images", self.peak, "B"),
            ("images", self.image_bytes, "B"),
            ("weights", self.weight_bytes, "B"),
            ("prepared from weights", self.prepared_bytes, "B"),
            ("once per set of weights", self.prepare_flops, "FLOP"),
        ]
        return found if self.points is None else [*found, ("runs of the graph", self.runs, "")]

    def __str__(self) -> str:
        given = ", ".join(f"{name} = {value}" for name, value in self.at.items())
        width = max(len(name) for name, _, _ in self.rows())
        lines = [f"cost of {self.title}{f', {given}' if given else ''}"]
        lines += [f"  {name:{width}}  {in_words(value, unit)}" for name, value, unit in self.rows()]
        if self.piece != self.given:
            lines.append(f"  in pieces of {self.piece[0]} images with {self.piece[1]} targets each")
        if self.points is not None:
            lines.append(f"  the method looks at S = {self.points} points")
        if self.uncounted:
            lines.append(f"  not counted, for want of a row: {', '.join(self.uncounted)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.at.items()) or "in N and K"
        return f"Cost({self.title}, {given}: {in_words(self.flops, 'FLOP')}; print it to read it)"


_EXPRESSIONS = ("flops", "product_flops", "bytes", "image_bytes", "result_bytes", "runs", "prepare_flops")


def substituted(expression: sympy.Expr, values: Mapping[sympy.Symbol, Any]) -> sympy.Expr:
    """With values in the place of symbols, all at the same time; the largest of terms stays as it is written."""
    if not values:
        return expression
    if not expression.args:
        return sympy.sympify(values.get(expression, expression))
    terms = [substituted(term, values) for term in expression.args]
    if isinstance(expression, sympy.Max | sympy.Min) and not all(term.is_number for term in terms):
        return expression.func(*terms, evaluate=False)
    return expression.func(*terms)


def in_words(value: Any, unit: str = "") -> str:
    """A number with its unit, as in ``3.64 GFLOP``; an expression as it is."""
    value = sympy.sympify(value)
    if not value.is_number:
        return f"{value} {unit}".rstrip()
    number = float(value)
    if not unit:
        return f"{number:,.0f}"
    for prefix in ("", "k", "M", "G", "T"):
        if abs(number) < 1000 or prefix == "T":
            break
        number /= 1000
    text = f"{number:.0f}" if prefix == "" and number == int(number) else f"{number:.3g}"
    return f"{text} {prefix}{unit}"


def graph_cost(
    explanation: ExplanationGraph,
    depth: int | None = None,
    scale: sympy.Rational | int = 1,
    copied: Copies | None = None,
) -> Cost:
    """The cost of one run of a graph.

    Args:
        explanation: the graph.
        depth: of the modules that rows of layers stand for; see `ExplanationGraph.layers`.
        scale: bytes of an entry in the dtype in which it runs, over those in the dtype in which it was captured.
        copied: what convolutions copy; if it is not given, what they do on a CPU where pictures are in channels-last.
    """
    copied = copied or copies(explanation.canonical.image_type.dtype, channels_last=True)
    views = node_views(explanation, copied)
    run = [view for view in views if view.part != PREPARATION]
    counted = [view for view in run if view.flops is not None]
    canonical = explanation.canonical
    types = {node.name: node.meta["type"] for node in explanation.graph.find_nodes(op="placeholder")}
    weights = [node.meta["type"] for node in canonical.graph.find_nodes(op="placeholder")[1:]]
    results = [node.meta["type"] for node in explanation.graph.output_node().args[0]]
    return Cost(
        title=f"{canonical.name} by {explanation.method}, images {canonical.image_type}",
        flops=total(view.flops for view in counted),
        product_flops=total(view.flops for view in counted if view.product),
        bytes=scale * total(view.bytes for view in run),
        graph_peak=_scaled(peak_expression(explanation, copied), scale),
        prepare_flops=total(view.flops for view in views if view.part == PREPARATION and view.flops is not None),
        weight_bytes=bytes_of(weights),
        prepared_bytes=scale * bytes_of([types[name] for name in explanation.prepared]),
        image_bytes=scale * bytes_of(canonical.image_type),
        result_bytes=scale * bytes_of(results),
        layers=tuple(_row_scaled(row, scale) for row in layer_views(explanation, depth, views)),
        nodes=tuple(_row_scaled(row, scale) for row in views),
        uncounted=tuple(dict.fromkeys(view.op for view in views if view.flops is None)),
    )


def _row_scaled(row: Any, scale: Any) -> Any:
    return row if scale == 1 else replace(row, bytes=scale * row.bytes, live=_scaled(row.live, scale))


def raised(expression: sympy.Expr, by: sympy.Expr) -> sympy.Expr:
    """A maximum of sums and something besides, the maximum outside."""
    if not isinstance(expression, sympy.Max):
        return expression + by
    return sympy.Max(*(term + by for term in expression.args), evaluate=False)


def _scaled(expression: sympy.Expr, scale: Any) -> sympy.Expr:
    """A maximum of sums times a number, the maximum outside."""
    if scale == 1 or not isinstance(expression, sympy.Max):
        return scale * expression
    return sympy.Max(*(sympy.expand(scale * term) for term in expression.args), evaluate=False)
