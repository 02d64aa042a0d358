"""What a page about an explanation graph shows, as plain data."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

import sympy
from torch import fx

from agf_fx.inspect import latex
from agf_fx.inspect.formulas import mathml
from agf_fx.inspect.proofs import Proved, ends, is_foreign, proved, rule_of
from agf_fx.ir.cost_model import in_words, substituted
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph, RuleNote
from agf_fx.ir.types import BATCH, TARGETS
from agf_fx.ir.views import READ_OUT, SEED, LayerView, NodeView, opened_layers
from agf_fx.methods.method import Method
from agf_fx.rules.rule import Rule

Row = dict[str, Any]
_ONE = {BATCH: sympy.S.One, TARGETS: sympy.S.One}
_ORDER = {"relevance": 0, "gradient": 1}  # of the streams that come back
_KEPT_PARTS = 3  # of the path of a source file: where somebody's files lie is nobody's business


def page_data(explanation: ExplanationGraph, method: Method | None = None) -> tuple[Row, list[list[Row]]]:
    """The layers, and the operations of each.

    Layers are in order of execution, ``(map)`` before and ``(target)`` behind them: forward goes down, from the
    images to the logits, and what comes back goes up. Numbers are for one image and one target.

    Args:
        explanation: the graph.
        method: the method that it was made by, to prove what is claimed of its rules; None: nothing is said of that.

    Returns:
        ``title``, ``streams``, ``rules``, ``equations`` and ``layers`` of the page; and for each layer its operations
        by part of the graph, each as a list ``[name, call, type, operations, bytes, equation]``.
    """
    opened = opened_layers(explanation)
    around = {row.name: (row, views) for row, views in opened if not row.calls}
    between = [pair for pair in opened if pair[0].calls]
    first = around.pop(READ_OUT, None)
    last = [around.pop(name) for name in list(around) if name == SEED]
    ordered = [*([first] if first else []), *between, *around.values(), *last]
    tables = _Tables()
    flows = _Flows(explanation, method, [row for row, _ in ordered])
    layers = [_layer(explanation, row, position, flows, tables) for position, (row, _) in enumerate(ordered)]
    inside = [_operations(views, tables) for _, views in ordered]
    canonical = explanation.canonical
    for place, stream, part, what in () if method is None else ends(method, canonical):
        row = next((row for row in layers if row["name"] == place), None)
        if row is not None:
            row.setdefault("parts", []).append([stream, part, tables.part(what)])
    data = {
        "title": f"{canonical.name} by {explanation.method}",
        "model": canonical.name,
        "method": explanation.method,
        "images": str(canonical.image_type),
        "streams": flows.streams,
        "operations": len(explanation),
        "flops": sum(row["flops"] for row in layers),
        "bytes": sum(row["bytes"] for row in layers),
        "of": "for one image and target" + ("" if method is None or method.points is None else " at one point"),
        "layers": layers,
        "modules": _modules(canonical, layers),
        "rules": tables.rules,
        "equations": tables.equations,
    }
    return data, inside


def _modules(canonical: CanonicalGraph, layers: Iterable[Row]) -> dict[str, str]:
    """Paths of modules around layers -> their classes."""
    found = {}
    for layer in layers:
        parts = layer["path"].split(".")
        for path in (".".join(parts[: depth + 1]) for depth in range(len(parts))):
            found[path] = canonical.modules.get(path, "")
    return found


class _Tables:
    """What many rows share is written once: rules and equations, by their numbers."""

    def __init__(self) -> None:
        self.rules: list[Row] = []
        self.equations: list[Row] = []
        self._rules: dict[object, int] = {}
        self._equations: dict[str, int] = {"": -1}

    def equation(self, text: str, read: Callable[[str], Any] = mathml) -> int:
        """The number of an equation; -1 for none."""
        if text not in self._equations:
            self._equations[text] = len(self.equations)
            self.equations.append({"text": text, "math": read(text)})
        return self._equations[text]

    def rule(self, note: RuleNote, rule: Rule | None, foreign: bool) -> int:
        """The number of a rule; its certificate is proved the first time.

        Args:
            note: what it says of itself.
            rule: the rule; None where only its note is known.
            foreign: whether no certificate of a built-in rule is about the operation; see `is_foreign`.
        """
        key = (note, None if rule is None else rule.function, foreign)
        if key not in self._rules:
            certificate = None if rule is None else self._certificate(Proved() if foreign else proved(rule))
            self._rules[key] = self._written(note._asdict(), certificate)
        return self._rules[key]

    def part(self, what: Any) -> int:
        """The number of what is no rule of a call: the start of a stream, a merge, a read-out."""
        key = ("part", what)
        if key not in self._rules:
            name = getattr(what, "name", "") or getattr(what, "__name__", type(what).__name__)
            said = {"name": name, "equation": getattr(what, "equation", ""), "source": getattr(what, "source", "")}
            self._rules[key] = self._written(said, self._certificate(proved(what)))
        return self._rules[key]

    def _written(self, said: Mapping[str, str], certificate: Row | None) -> int:
        row = {"symbol": "", "promise": "", "source": "", **said, "equation": self.equation(said["equation"])}
        self.rules.append(row if certificate is None else {**row, "certificate": certificate})
        return len(self.rules) - 1

    def _certificate(self, found: Proved) -> Row:
        claims = [[each.says, each.layer, self.equation(each.latex, latex.mathml), each.left] for each in found.proofs]
        computed = self.equation(found.computed, latex.mathml)
        return {"claims": claims, "computed": computed, "unclaimed": found.unclaimed}


class _Flows:
    """Which row reads which, and which streams come back that way."""

    def __init__(self, explanation: ExplanationGraph, method: Method | None, rows: list[LayerView]) -> None:
        canonical = explanation.canonical
        self._method = method
        self._calls = {node.name: node for node in canonical.calls}
        self._row_of = {call: position for position, row in enumerate(rows) for call in row.calls}
        self._notes = explanation.rules
        self._arrived = _arrived(explanation)
        self.streams = sorted(explanation.rules, key=lambda name: _ORDER.get(name, len(_ORDER)))
        first = next((position for position, row in enumerate(rows) if row.name == READ_OUT), None)
        last = next((position for position, row in enumerate(rows) if row.name == SEED), None)
        if first is not None:
            self._row_of[canonical.images.name] = first
        self._logits, self._end = canonical.logits, last

    def into(self, row: LayerView, position: int) -> list[list[Any]]:
        """What a row reads: the row it comes from, and the streams that go back there."""
        found: dict[int, set[int]] = defaultdict(set)
        for call in map(self._calls.__getitem__, row.calls):
            for source in call.all_input_nodes:
                origin = self._row_of.get(source.name)
                if origin is not None and origin != position:
                    found[origin] |= self._back(source, call)
        if position == self._end and self._logits.name in self._row_of:
            found[self._row_of[self._logits.name]] |= {
                number for number, stream in enumerate(self.streams) if self._logits.name in self._arrived[stream]
            }
        return [[origin, *sorted(streams)] for origin, streams in sorted(found.items())]

    def _back(self, source: fx.Node, call: fx.Node) -> set[int]:
        """The streams that a call hands to an operand: those that it has a rule for, and that arrive there."""
        known = enumerate(self.streams)
        return {
            number
            for number, stream in known
            if call.name in self._notes[stream] and source.name in self._arrived[stream]
        }

    def rules(self, row: LayerView, tables: _Tables) -> list[list[int]]:
        """Streams that pass a row, each with its rules."""
        passed = []
        for number, stream in enumerate(self.streams):
            calls = [call for call in row.calls if self._passes(call, stream)]
            if calls:
                passed.append([number, *dict.fromkeys(self._rule(stream, call, tables) for call in calls)])
        return passed

    def _rule(self, stream: str, call: str, tables: _Tables) -> int:
        node = self._calls[call]
        rule = None if self._method is None else rule_of(self._method, stream, node)
        return tables.rule(self._notes[stream][call], rule, rule is not None and is_foreign(node, rule))

    def _passes(self, call: str, stream: str) -> bool:
        if call not in self._notes[stream]:
            return False
        operands = self._calls[call].all_input_nodes
        return any(operand.name in self._arrived[stream] for operand in operands)


def _arrived(explanation: ExplanationGraph) -> dict[str, set[str]]:
    """Stream -> values of the model at which there is a message of it."""
    found: dict[str, set[str]] = {stream: set() for stream in explanation.rules}
    for node in explanation.graph.nodes:
        if node.meta.get("stream") in found:
            found[node.meta["stream"]].update(node.meta.get("stream_of", ()))
    images = explanation.canonical.images
    for stream, names in found.items():  # the message at the images may have become part of the map
        readers = [user.name for user in images.users]
        if any(reader in names and reader in explanation.rules[stream] for reader in readers):
            names.add(images.name)
    return found


def _layer(explanation: ExplanationGraph, row: LayerView, position: int, flows: _Flows, tables: _Tables) -> Row:
    canonical = explanation.canonical
    calls = {node.name: node for node in canonical.calls}
    own = [calls[name] for name in row.calls]
    path = own[0].meta["module"] if own else ""
    return {
        "name": row.name,
        "path": path,
        "op": row.operation,
        "class": canonical.modules.get(path, "") if path else "",
        "role": row.role,
        "form": row.form,
        "calls": list(row.calls),
        "reads": flows.into(row, position),
        "rules": flows.rules(row, tables),
        "shape": "" if not own else _type(own[-1].meta["type"]),
        "source": "" if not own else short_source(own[0].meta.get("source", "")),
        "weights": _weights(canonical, own),
        "nodes": row.nodes,
        "products": row.products,
        "prepared": row.prepared,
        "flops": at_one(row.flops),
        "bytes": at_one(row.bytes),
        "live": at_one(row.live),
        "costs": [_expression(row.flops), _expression(row.bytes)],
        "share": round(row.share, 6),
    }


def _weights(canonical: CanonicalGraph, calls: Iterable[fx.Node]) -> list[list[str]]:
    """Parameters and buffers that calls read: path and type."""
    named = canonical.signature.weights
    read = dict.fromkeys(source for call in calls for source in call.all_input_nodes if source.name in named)
    return [[named[source.name], _type(source.meta["type"])] for source in read]


def _type(kind: Any) -> str:
    return ", ".join(map(_type, kind)) if isinstance(kind, tuple | list) else str(kind)


def short_source(source: str) -> str:
    """A line of source code without the folders around its package: ``models/resnet.py:92: ...``."""
    place, separator, line = source.partition(": ")
    path, colon, number = place.rpartition(":")
    if not colon or not re.fullmatch(r"\d+", number):
        return source
    parts = PurePath(path.replace("\\", "/")).parts
    return f"{'/'.join(parts[-_KEPT_PARTS:])}:{number}{separator}{line}"


def _operations(views: Iterable[NodeView], tables: _Tables) -> list[Row]:
    parts: dict[str, list[list[Any]]] = {}
    for view in views:
        shape = "" if view.shape is None else f"{view.dtype}[{', '.join(map(str, view.shape))}]"
        flops = None if view.flops is None else at_one(view.flops)
        call = view.call.partition(" = ")[2] or view.call
        row = [view.name, call, shape, flops, at_one(view.bytes), tables.equation(view.equation)]
        parts.setdefault(view.part, []).append(row)
    return [{"part": part, "rows": rows} for part, rows in parts.items()]


@functools.lru_cache(65536)
def at_one(expression: sympy.Expr) -> int | float:
    """An expression in N and K for one image and one target."""
    number = float(substituted(sympy.sympify(expression), _ONE))
    return int(number) if number.is_integer() else number


def _expression(expression: sympy.Expr) -> str:
    return "" if expression.is_number else in_words(expression).replace("**", "^").replace("*", " ")
