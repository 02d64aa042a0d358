"""How two explanation graphs differ: which operations are added, removed and changed, layer by layer."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from agf_fx.errors import InputError, OptionsError
from agf_fx.frontend.identity import tensor_digest
from agf_fx.inspect.departures import Departure, Departures
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.ir.views import PREPARATION, SEED, NodeView, module_paths, opened_layers

_NODE = re.compile(r"%(\w+)")
_IN_PLACE = re.compile(r"^(\w+?)_(?=[.(]|$)")


class Kind(StrEnum):
    """What became of an operation."""

    MOVED = "moved"
    """It computes the same, elsewhere: once per set of weights instead of for every image, or the other way round."""
    IN_PLACE = "in place"
    """It computes the same, in the memory of what it reads, or no longer so."""
    CARRIED = "carried"
    """The same operation, on values that differ because something before it does."""
    CHANGED = "changed"
    """The same operation with other arguments, or of another shape."""
    REMOVED = "removed"
    ADDED = "added"


@dataclass(frozen=True)
class NodeChange:
    """One operation that differs.

    Attributes:
        kind: what became of it.
        before: in the first graph; None where it is added.
        after: in the second graph; None where it is removed.
    """

    kind: Kind
    before: NodeView | None
    after: NodeView | None

    @property
    def stream(self) -> str:
        """The stream that it belongs to."""
        return self.one.stream

    @property
    def one(self) -> NodeView:
        """The operation where it is, in the second graph if in both."""
        return self.after or self.before  # type: ignore[return-value]  # one of them is there

    @property
    def loud(self) -> bool:
        """Whether it is worth a line: not what only has other values, or other memory."""
        return self.kind not in (Kind.CARRIED, Kind.IN_PLACE)

    def in_words(self) -> str:
        """One line, as in ``+ relevance  mul.Tensor(%a, %b)``."""
        calls = [_call(view) for view in (self.before, self.after) if view is not None]
        if self.kind is Kind.MOVED:
            parts = f"{self.before.part} -> {self.after.part}"  # type: ignore[union-attr]  # both are there
            return f"{_SIGNS[self.kind]} {self.stream:<10} {calls[-1]}  ({parts})"
        return f"{_SIGNS[self.kind]} {self.stream:<10} {'  ->  '.join(dict.fromkeys(calls))}"


_SIGNS = {
    Kind.MOVED: ">",
    Kind.IN_PLACE: "=",
    Kind.CARRIED: ".",
    Kind.CHANGED: "~",
    Kind.REMOVED: "-",
    Kind.ADDED: "+",
}


def _call(view: NodeView) -> str:
    return view.call.partition(" = ")[2] or view.call


@dataclass(frozen=True)
class LayerDifference:
    """A layer of the model in two explanation graphs.

    Attributes:
        name: of the layer, as in `agf_fx.ir.views.LayerView`.
        path: of its module; "" where the model itself makes the call.
        rules: by which its relevance, or its gradient, passes, in the first graph and in the second.
        nodes: operations in the first graph and in the second.
        same: operations that compute the same, from the same values, in both.
        changes: the others.
        departure: how far the relevances of its output are apart, where an image was looked at.
    """

    name: str
    path: str
    rules: tuple[str, str]
    nodes: tuple[int, int]
    same: int
    changes: tuple[NodeChange, ...]
    departure: Departure | None = None

    @property
    def counts(self) -> Counter[Kind]:
        """How many operations of each kind there are."""
        return Counter(change.kind for change in self.changes)

    @property
    def differs(self) -> bool:
        """Whether its rules, or what it computes, differ of themselves: not only because of what comes before."""
        return self.rules[0] != self.rules[1] or any(change.loud for change in self.changes)


@dataclass(frozen=True, repr=False)
class GraphDifference:
    """How two explanation graphs differ; ``print`` it.

    Attributes:
        titles: what the graphs are called.
        layers: of both graphs, in order of execution, between ``(target)`` and ``(map)``.
        departures: where the relevances of an image part, if one was looked at.
        inputs: constants that both graphs take, and that have other values, such as a baseline.
    """

    titles: tuple[str, str]
    layers: tuple[LayerDifference, ...]
    departures: Departures | None = None
    inputs: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether both graphs compute the same values by the same operations."""
        return not self.inputs and not any(layer.changes or layer.differs for layer in self.layers)

    @property
    def counts(self) -> Counter[Kind]:
        """How many operations of each kind there are."""
        return sum((layer.counts for layer in self.layers), Counter())

    def differing(self) -> list[LayerDifference]:
        """The layers that differ of themselves, or at which relevance does."""
        parted = {departure.call for departure in self.departures.parted} if self.departures else set()
        return [layer for layer in self.layers if layer.differs or (layer.departure and layer.departure.call in parted)]

    def of(self, layer: str) -> GraphDifference:
        """The same of one module and those inside, or of ``"(target)"`` or ``"(map)"``.

        Raises:
            OptionsError: there is no such layer in either graph.
        """
        inside = tuple(
            row
            for row in self.layers
            if layer in (row.name, row.path) or row.name.startswith(f"{layer}.") or row.path.startswith(f"{layer}.")
        )
        if not inside:
            close = difflib.get_close_matches(layer, [row.name for row in self.layers], 3, 0.4)
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "see the table without --layer."
            raise OptionsError(f"neither graph has a layer {layer!r}; {hint}")
        return replace(self, layers=inside, departures=None)

    def fitting(self, rows: int) -> GraphDifference:
        """The same with modules taken together so far that no more than ``rows`` layers differ, if that can be."""
        deepest = max((row.path.count(".") + 1 for row in self.layers if row.path), default=1)
        chosen = self
        for depth in range(deepest, 0, -1):
            if len(chosen.differing()) <= rows:
                break
            chosen = self.grouped(depth)
        return chosen

    def grouped(self, depth: int) -> GraphDifference:
        """The same with modules that are so deep taken together."""
        groups: dict[str, list[LayerDifference]] = defaultdict(list)
        for layer in self.layers:
            groups[".".join(layer.path.split(".")[:depth]) or layer.name].append(layer)
        return replace(self, layers=tuple(_together(name, rows) for name, rows in groups.items()))

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        words = ", ".join(f"{count} {kind}" for kind, count in self.counts.items()) or "none"
        return f"GraphDifference({self.titles[0]} and {self.titles[1]}: {words}; print it to read it)"

    def lines(self) -> Iterator[str]:
        """A unified text: what differs in each layer, operation by operation."""
        yield f"--- {self.titles[0]}"
        yield f"+++ {self.titles[1]}"
        for layer in self.layers:
            changes = [change for change in layer.changes if change.loud]
            if not changes and layer.rules[0] == layer.rules[1]:
                continue
            before, after = layer.rules
            rules = "" if before == after else f"  {before or 'no rule'} -> {after or 'no rule'}"
            yield f"@@ {layer.name}{rules}  ({layer.nodes[0]} -> {layer.nodes[1]} operations, {layer.same} the same)"
            yield from (change.in_words() for change in changes)
        if self.inputs:
            yield f"values that differ: {', '.join(self.inputs)}"
        if self.identical:
            yield "the graphs compute the same, by the same operations"
        if self.departures is not None:
            yield from self.departures.lines()


def _together(name: str, rows: Sequence[LayerDifference]) -> LayerDifference:
    if len(rows) == 1:
        return replace(rows[0], name=name if rows[0].path else rows[0].name)
    first, second = (", ".join(dict.fromkeys(row.rules[side] for row in rows if row.rules[side])) for side in (0, 1))
    return LayerDifference(
        name,
        rows[0].path,
        (first, second),
        (sum(row.nodes[0] for row in rows), sum(row.nodes[1] for row in rows)),
        sum(row.same for row in rows),
        tuple(change for row in rows for change in row.changes),
        next((row.departure for row in reversed(rows) if row.departure is not None), None),
    )


@dataclass(frozen=True)
class Layer:
    """A layer of a graph that is compared.

    Attributes:
        name: as in `agf_fx.ir.views.LayerView`.
        path: of its module.
        rule: as there.
        calls: as there.
        views: its operations.
    """

    name: str
    path: str
    rule: str
    calls: tuple[str, ...] = ()
    views: tuple[NodeView, ...] = ()


@dataclass(frozen=True)
class Compared:
    """A graph that is compared: of an explainer, at a stage of the compiler, or from a file.

    Attributes:
        title: what it is called.
        layers: in order of execution.
        views: all its nodes, in order of execution.
        constants: input that no weight is, such as a baseline -> what identifies its values.
    """

    title: str
    layers: tuple[Layer, ...]
    views: tuple[NodeView, ...] = field(repr=False)
    constants: Mapping[str, str] = field(default_factory=dict)


def compared(explanation: ExplanationGraph, title: str | None = None) -> Compared:
    """An explanation graph as it is compared."""
    paths = module_paths(explanation)
    layers = tuple(
        Layer(row.name, paths.get(row.name, ""), row.rule, row.calls, tuple(views))
        for row, views in opened_layers(explanation)
    )
    named = f"{explanation.canonical.name} by {explanation.method}" if title is None else title
    return Compared(named, layers, tuple(explanation.nodes()), constant_digests(explanation.canonical))


def constant_digests(canonical: CanonicalGraph) -> dict[str, str]:
    """Constant that a graph takes -> what identifies its values."""
    return {name: tensor_digest(tensor) for name, tensor in canonical.signature.constants.items()}


def read_compared(path: str | os.PathLike[str]) -> Compared:
    """A graph from a file that ``agf-fx inspect --write FILE.json`` wrote, by any version.

    Raises:
        InputError: the file is missing, or holds no such graph.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        reads: dict[str, list[str]] = defaultdict(list)
        for edge in data["edges"]:
            reads[edge["target"]].append(edge["source"])
        views = {node["id"]: _read_view(node, tuple(reads[node["id"]])) for node in data["nodes"]}
        layers = tuple(
            Layer(
                str(row["name"]),
                str(row["path"]),
                str(row["rule"]),
                tuple(map(str, row["calls"])),
                tuple(views[name] for name in row["nodes"]),
            )
            for row in data["graph"]["layers"]
        )
        constants = {str(name): str(digest) for name, digest in data["graph"]["constants"].items()}
        title = f"{data['graph']['title']} ({Path(path).name})"
    except OSError as error:
        raise InputError(f"the graph {os.fspath(path)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{os.fspath(path)!r} holds no explanation graph ({type(error).__name__}: {error}); write one by agf-fx "
            "inspect MODEL --write FILE.json."
        ) from error
    return Compared(title, layers, tuple(views.values()), constants)


def _read_view(node: Mapping[str, Any], reads: tuple[str, ...]) -> NodeView:
    words = {key: str(node.get(key, "")) for key in ("op", "call", "part", "stream", "rule", "layer", "site", "dtype")}
    if not words["op"]:
        raise ValueError(f"node {node['id']} has no operation")
    return NodeView(name=str(node["id"]), reads=reads, **words)


def difference(before: Compared, after: Compared, departures: Departures | None = None) -> GraphDifference:
    """How two graphs differ.

    Two operations are the same if they compute the same value from the same inputs: by structure, however they are
    called and in whatever order they run. Of those left, two of one layer and stream that do the same with other
    values belong together.

    Args:
        before, after: the graphs.
        departures: of an image, if one was looked at.
    """
    pairs = _same_values(before, after)
    partners = {view.name: view for view in after.views}
    paired = {*pairs.values()}
    olds, news = ({layer.name: layer for layer in graph.layers} for graph in (before, after))
    at = {departure.call: departure for departure in departures.all} if departures else {}
    found = []
    for name in _in_order([*olds], [*news]):
        old, new = olds.get(name, _ABSENT), news.get(name, _ABSENT)
        calls = new.calls or old.calls
        changes = [
            *_elsewhere((view, partners[pairs[view.name]]) for view in old.views if view.name in pairs),
            *_matched(
                [view for view in old.views if view.name not in pairs],
                [view for view in new.views if view.name not in paired],
            ),
        ]
        found.append(
            LayerDifference(
                name=name,
                path=new.path or old.path,
                rules=(old.rule, new.rule),
                nodes=(len(old.views), len(new.views)),
                same=sum(view.name in pairs for view in old.views),
                changes=tuple(changes),
                departure=next((at[call] for call in reversed(calls) if call in at), None),
            )
        )
    ours, theirs = before.constants, after.constants
    inputs = tuple(name for name in ours if name in theirs and ours[name] != theirs[name])
    return GraphDifference((before.title, after.title), tuple(found), departures, inputs)


_ABSENT = Layer("", "", "")


def _in_order(olds: Sequence[str], news: Sequence[str]) -> list[str]:
    """Names of layers of either graph: those of the second, and, where they stood, those that it lacks."""
    found: list[str] = []
    for tag, start, end, first, last in difflib.SequenceMatcher(None, olds, news, autojunk=False).get_opcodes():
        found += [] if tag == "equal" else olds[start:end]
        found += news[first:last]
    return sorted(dict.fromkeys(found), key=lambda name: name != SEED)


def _same_values(before: Compared, after: Compared) -> dict[str, str]:
    """Node of the first graph -> node of the second that computes the same value, each at most once."""
    known: dict[tuple[str | int, ...], int] = {}
    olds, news = before.views, after.views
    values, others = _values(before, known), _values(after, known)
    pairs: dict[str, str] = {}
    for place in (_place, lambda view: ""):  # in its own layer and stream, before elsewhere
        waiting: dict[tuple[int, str], deque[str]] = defaultdict(deque)
        taken = {*pairs.values()}
        for view in news:
            if view.name not in taken:
                waiting[others[view.name], place(view)].append(view.name)
        for view in olds:
            same = waiting.get((values[view.name], place(view)))
            if view.name not in pairs and same:
                pairs[view.name] = same.popleft()
    return pairs


def _place(view: NodeView) -> str:
    return f"{view.site} {view.layer} {view.stream}"


def _values(graph: Compared, known: dict[tuple[str | int, ...], int]) -> dict[str, int]:
    """Node -> number of the value that it computes: of its operation, arguments, and what it reads."""
    found: dict[str, int] = {}
    for view in graph.views:
        if view.op == "input" and view.reads:  # what was prepared
            found[view.name] = found[view.reads[0]]
            continue
        read = [found[name] for name in _NODE.findall(_call(view))]
        call, dtype = _blank(view)
        structure = (
            ("input", view.name, graph.constants.get(view.name, ""))
            if view.op == "input"
            else (call, dtype, *_ordered(call, read))
        )
        found[view.name] = known.setdefault(structure, len(known))
    return found


def _ordered(call: str, read: list[int]) -> list[int]:
    """What an operation reads; in one order where the order does not matter."""
    return sorted(read) if call.endswith("(%, %)") and call.partition(".")[0] in _COMMUTATIVE else read


_COMMUTATIVE = ("add", "mul", "eq", "ne", "bitwise_and", "bitwise_or", "bitwise_xor")


def _blank(view: NodeView) -> tuple[str, str]:
    """Operation and arguments, without what it reads, and without whether it reuses memory."""
    return _IN_PLACE.sub(r"\1", _NODE.sub("%", _call(view))), view.dtype


def _elsewhere(pairs: Iterable[tuple[NodeView, NodeView]]) -> Iterator[NodeChange]:
    """Of operations that compute the same, those that do it at another time, or in place."""
    for old, new in pairs:
        if (old.part == PREPARATION) != (new.part == PREPARATION):
            yield NodeChange(Kind.MOVED, old, new)
        elif old.op != new.op:
            yield NodeChange(Kind.IN_PLACE, old, new)


def _matched(olds: Sequence[NodeView], news: Sequence[NodeView]) -> Iterator[NodeChange]:
    """The operations of a layer that are left: stream by stream, and then those that went to another stream."""
    rest: tuple[list[NodeView], list[NodeView]] = [], []
    for stream in dict.fromkeys(view.stream for view in (*olds, *news)):
        before, after = ([view for view in views if view.stream == stream] for views in (olds, news))
        for old, new in _aligned(before, after, rest):
            yield NodeChange(Kind.CARRIED, old, new)
    left: tuple[list[NodeView], list[NodeView]] = [], []
    for old, new in _aligned(*rest, left):
        yield NodeChange(Kind.CARRIED, old, new)
    yield from _replaced(*left)


def _aligned(
    olds: Sequence[NodeView], news: Sequence[NodeView], rest: tuple[list[NodeView], list[NodeView]]
) -> Iterator[tuple[NodeView, NodeView]]:
    """Those that do the same with other values, in one order; the others go to the rest."""
    matcher = difflib.SequenceMatcher(None, [*map(_blank, olds)], [*map(_blank, news)], autojunk=False)
    for tag, start, end, first, last in matcher.get_opcodes():
        if tag == "equal":
            yield from zip(olds[start:end], news[first:last], strict=True)
        else:
            rest[0].extend(olds[start:end])
            rest[1].extend(news[first:last])


def _replaced(olds: Sequence[NodeView], news: Sequence[NodeView]) -> Iterator[NodeChange]:
    """Operations that stand in the place of others: changed where they are of one kind, and removed or added."""
    waiting: dict[tuple[str, str], deque[NodeView]] = defaultdict(deque)
    for view in news:
        waiting[_kind(view)].append(view)
    taken = set()
    for old in olds:
        same = waiting[_kind(old)]
        if same:
            new = same.popleft()
            taken.add(new.name)
            yield NodeChange(Kind.CHANGED, old, new)
        else:
            yield NodeChange(Kind.REMOVED, old, None)
    yield from (NodeChange(Kind.ADDED, None, new) for new in news if new.name not in taken)


def _kind(view: NodeView) -> tuple[str, str]:
    return view.stream, _IN_PLACE.sub(r"\1", view.op)
