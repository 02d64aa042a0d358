"""Graphs as plain data and back: lists, dictionaries, strings and numbers, and tensors beside them.

Reading runs no code of the data: operations are those of a list, arguments those of their schemas, names are
identifiers, and sizes come from a small grammar. What was read is then checked like any graph, and run on shapes alone.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn

from agf_fx.ir.arguments import fit
from agf_fx.ir.captured import CapturedVjp
from agf_fx.ir.checks import check_canonical, check_captured, check_explanation
from agf_fx.ir.dry_run import WrongGraph
from agf_fx.ir.facts import Facts, FlattenBoundary
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph, RuleNote, Signature, class_name
from agf_fx.ir.operations import by_name, name_of
from agf_fx.ir.sizes import BadSize, size_data, size_from
from agf_fx.ir.types import TensorType

_CANONICAL_META = ("type", "module", "source", "depends_on_images", "facts", "puts_out")
_EXPLANATION_META = ("type", "stream", "rule", "layer", "site", "symbol", "equation", "stream_of", "value_of")
_CAPTURED_META = ("type", "per_target")

_TORCH = {torch.dtype: "dtype", torch.memory_format: "memory_format", torch.layout: "layout"}
_METHOD = re.compile(r"[a-z][a-z0-9+-]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST, _MOST_NODES, _HIGHEST_RANK = 4096, 500_000, 16


class Unwritable(Exception):
    """A graph holds something that has no form as data: a custom operation, an unusual argument."""


class Unreadable(Exception):
    """Data is no graph that this version writes."""


def write_canonical(canonical: CanonicalGraph) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A canonical graph as data, and its constants.

    Raises:
        Unwritable: see there.
    """
    signature = canonical.signature
    with _as(Unwritable):
        check_canonical(canonical)
        data = {
            "name": canonical.name,
            "weights": dict(signature.weights),
            "constants": list(signature.constants),
            "modules": dict(canonical.modules),
            "graph": _Writer(_CANONICAL_META).graph(canonical.graph),
        }
        return data, dict(signature.constants)


def read_canonical(data: Mapping[str, Any], constants: Mapping[str, Tensor]) -> CanonicalGraph:
    """The inverse of `write_canonical`.

    Raises:
        Unreadable: see there.
    """
    with _as(Unreadable):
        kept = {_name(name): constants[name] for name in _list(data["constants"])}
        weights = {_name(name): _text(path) for name, path in data["weights"].items()}
        graph = _Reader(data["graph"], _CANONICAL_META).graph()
        for node in graph.find_nodes(op="placeholder"):
            if node.name in kept:
                node.meta["constant"] = kept[node.name]
        modules = {_text(path): _text(name) for path, name in data["modules"].items()}
        canonical = CanonicalGraph(_text(data["name"]), graph, Signature(weights, kept), modules=modules)
        check_canonical(canonical)
        return canonical


def write_explanation(explanation: ExplanationGraph) -> dict[str, Any]:
    """An explanation graph as data, without the canonical graph that it was emitted from.

    Raises:
        Unwritable: see there.
    """
    with _as(Unwritable):
        check_explanation(explanation)
        return {
            "method": explanation.method,
            "graph": _Writer(_EXPLANATION_META).graph(explanation.graph),
            "prepare": explanation.prepare and _Writer(_EXPLANATION_META).graph(explanation.prepare.graph),
            "rules": _rules_data(explanation.rules),
        }


def read_explanation(data: Mapping[str, Any], canonical: CanonicalGraph) -> ExplanationGraph:
    """The inverse of `write_explanation`.

    Raises:
        Unreadable: see there.
    """
    with _as(Unreadable):
        method, prepare = _method(data["method"]), data["prepare"]
        graph = _Reader(data["graph"], _EXPLANATION_META).graph()
        hoisted = None if prepare is None else _Reader(prepare, _EXPLANATION_META).graph()
        explanation = ExplanationGraph(
            _module(graph, class_name(canonical.name, method)),
            canonical,
            method,
            None if hoisted is None else _module(hoisted, f"{canonical.name}_prepare"),
            rules=_rules_from(data["rules"]),
        )
        check_explanation(explanation)
        return explanation


def _rules_data(rules: Mapping[str, Mapping[str, RuleNote]]) -> dict[str, Any]:
    """Which rule every call has; rules that many have are written once."""
    notes = list(dict.fromkeys(note for of in rules.values() for note in of.values()))
    place = {note: index for index, note in enumerate(notes)}
    of = {stream: {name: place[note] for name, note in given.items()} for stream, given in rules.items()}
    return {"notes": [list(note) for note in notes], "of": of}


def _rules_from(data: Mapping[str, Any]) -> dict[str, dict[str, RuleNote]]:
    notes = [RuleNote(*map(_text, _list(note))) for note in _list(data["notes"])]
    if any(
        type(index) is not int or not 0 <= index < len(notes) for of in data["of"].values() for index in of.values()
    ):
        raise Unreadable("a rule that is not in the list")
    return {
        _text(stream): {_name(name): notes[index] for name, index in of.items()} for stream, of in data["of"].items()
    }


def _module(graph: fx.Graph, name: str) -> fx.GraphModule:
    return fx.GraphModule(nn.Module(), graph, name)


class _as:
    """Whatever goes wrong while data is written or read means that it is none of ours."""

    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, Unwritable | Unreadable):
            known = isinstance(error, WrongGraph | BadSize)
            raise self._kind(str(error) if known else f"{type(error).__name__}: {error}") from error


class _Writer:
    """Writes nodes in order; what repeats (types, labels) is written once, in a table."""

    def __init__(self, meta: Iterable[str]) -> None:
        self._meta = tuple(meta)
        self._positions: dict[fx.Node, int] = {}
        self._table: list[Any] = []
        self._known: dict[str, int] = {}

    def graph(self, graph: fx.Graph) -> dict[str, Any]:
        nodes = [self._node(node) for node in graph.nodes]
        return {"meta": list(self._meta), "nodes": nodes, "table": self._table}

    def _node(self, node: fx.Node) -> list[Any]:
        target = self._shared(_target_name(node)) if node.op == "call_function" else 0
        labels = [self._shared(_meta_data(node.meta[key])) if key in node.meta else -1 for key in self._meta]
        written = [node.op, node.name, target, self._value(node.args), self._value(dict(node.kwargs)), labels]
        self._positions[node] = len(self._positions)
        return written

    def _shared(self, value: Any) -> int:
        key = repr(value)
        if key not in self._known:
            self._known[key] = len(self._table)
            self._table.append(value)
        return self._known[key]

    def _value(self, value: Any) -> Any:
        """An argument: nodes and the like as a dictionary of one entry that says what it is."""
        if isinstance(value, fx.Node):
            return {"node": self._positions[value]}
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return {"float": value.hex()}
        if isinstance(value, tuple | list):
            return [self._value(item) for item in value]
        if isinstance(value, dict):
            return {"map": {key: self._value(item) for key, item in value.items()}}
        if isinstance(value, torch.device):
            return {"device": str(value)}
        for kind, name in _TORCH.items():
            if isinstance(value, kind):
                return {name: str(value).removeprefix("torch.")}
        raise Unwritable(f"an argument of type {type(value).__name__}")


def _target_name(node: fx.Node) -> str:
    name = name_of(node.target)
    if name is None or not fit(node.target, node.args, node.kwargs):
        raise Unwritable(f"the call %{node.name} of {node.target}")
    return name


class _Reader:
    def __init__(self, data: Mapping[str, Any], meta: tuple[str, ...]) -> None:
        if data["meta"] != list(meta):
            raise Unreadable("other labels than those of this graph")
        self._written = _list(data["nodes"])
        if len(self._written) > _MOST_NODES:
            raise Unreadable(f"{len(self._written)} nodes")
        self._meta = meta
        self._nodes: list[fx.Node] = []
        self._data = _list(data["table"])
        self._table: dict[tuple[str, int], Any] = {}

    def graph(self) -> fx.Graph:
        graph = fx.Graph()
        for place, (op, name, target, args, kwargs, labels) in enumerate(self._written):
            if (op == "output") is not (place == len(self._written) - 1):
                raise Unreadable("an output that is not the last node")
            node = self._node(graph, op, _name(name), target, args, kwargs)
            if node.name != name:
                raise Unreadable(f"the name {name} is taken")
            if len(labels) != len(self._meta):
                raise Unreadable(f"{len(labels)} labels")
            node.meta = {
                key: self._label(key, entry) for key, entry in zip(self._meta, labels, strict=True) if entry != -1
            }
            self._nodes.append(node)
        return graph

    def _node(self, graph: fx.Graph, op: str, name: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        if op == "placeholder":
            return graph.placeholder(name)
        values = self._value(_list(args))
        if op == "output":
            (results,) = values
            return graph.output(tuple(results) if isinstance(results, list) else results)
        if op != "call_function":
            raise Unreadable("a node of an unknown kind")
        ((kind, named),) = kwargs.items()
        named = {key: self._value(item) for key, item in named.items()} if kind == "map" else None
        called = by_name(_text(self._entry(target)))
        if called is None or named is None or not fit(called, values, named):
            raise Unreadable(f"the call %{name}")
        return graph.create_node(op, called, tuple(values), named, name=name)

    def _label(self, key: str, entry: int) -> Any:
        """A label of a node; equal ones are read once."""
        if (key, entry) not in self._table:
            self._table[key, entry] = _LABELS[key](_from_meta_data(self._entry(entry)))
        value = self._table[key, entry]
        return list(value) if isinstance(value, list) else value

    def _entry(self, index: Any) -> Any:
        if type(index) is not int or not 0 <= index < len(self._data):
            raise Unreadable("an entry that is not in the table")
        return self._data[index]

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if value is None or isinstance(value, bool | int | str):
            return value
        if not isinstance(value, dict):
            raise Unreadable(f"an argument of type {type(value).__name__}")
        ((kind, content),) = value.items()
        if kind == "node" and type(content) is int and 0 <= content < len(self._nodes):
            return self._nodes[content]
        if kind == "float":
            return float.fromhex(_text(content))
        if kind == "device":
            return torch.device(_text(content))
        if kind in _TORCH.values():
            return _torch_constant(kind, content)
        raise Unreadable("an argument of an unknown kind")


def _name(value: Any) -> str:
    """An identifier: what may stand in a graph's code."""
    if not isinstance(value, str) or len(value) > _LONGEST or not _NAME.fullmatch(value) or keyword.iskeyword(value):
        raise Unreadable("a name that is none")
    return value


def _method(value: Any) -> str:
    """The name of a method, which is shown and never run: letters, digits, hyphens and plus signs."""
    if not isinstance(value, str) or len(value) > _LONGEST or not _METHOD.fullmatch(value):
        raise Unreadable("a method's name that is none")
    return value


def _text(value: Any) -> str:
    """A text, which is shown and never run."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise Unreadable("a text that is none")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Unreadable("a list that is none")
    return value


def _torch_constant(kind: str, name: Any) -> Any:
    """A dtype, memory format or layout by name."""
    value = getattr(torch, _name(name), None)
    if _TORCH.get(type(value)) != kind:
        raise Unreadable(f"torch.{name} is no {kind}")
    return value


def _meta_data(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, TensorType):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"tensor": [dtype, [size_data(size) for size in value.shape]]}
    if isinstance(value, sympy.Expr):
        return {"size": size_data(value)}
    if isinstance(value, Facts):
        return {"facts": {f.name: _meta_data(getattr(value, f.name)) for f in fields(value) if getattr(value, f.name)}}
    if isinstance(value, FlattenBoundary):
        return {"boundary": [list(value.shape), value.channel_dim]}
    if isinstance(value, CapturedVjp):
        return {"vjp": [_Writer(_CAPTURED_META).graph(value.graph), list(value.operands), value.entrywise]}
    if isinstance(value, tuple):
        return {"tuple": [_meta_data(item) for item in value]}
    if isinstance(value, list):
        return {"list": [_meta_data(item) for item in value]}
    raise Unwritable(f"metadata of type {type(value).__name__}")


def _from_meta_data(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind not in _META:
        raise Unreadable("a label of an unknown kind")
    return _META[kind](content)


def _tensor_type(content: Any) -> TensorType:
    dtype, sizes = content
    if len(_list(sizes)) > _HIGHEST_RANK:
        raise Unreadable(f"a tensor of rank {len(sizes)}")
    return TensorType(tuple(map(size_from, sizes)), _torch_constant("dtype", dtype))


def _facts(content: Mapping[str, Any]) -> Facts:
    return Facts(**{name: _from_meta_data(value) for name, value in content.items()})


def _captured(content: Any) -> CapturedVjp:
    graph, operands, entrywise = content
    captured = CapturedVjp(_Reader(graph, _CAPTURED_META).graph(), tuple(operands), entrywise)
    check_captured(captured)
    return captured


_META: dict[str, Callable[[Any], Any]] = {
    "tensor": _tensor_type,
    "size": size_from,
    "facts": _facts,
    "boundary": lambda content: FlattenBoundary(tuple(content[0]), content[1]),
    "vjp": _captured,
    "tuple": lambda content: tuple(map(_from_meta_data, _list(content))),
    "list": lambda content: list(map(_from_meta_data, _list(content))),
}


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Unreadable("a truth value that is none")
    return value


def _kind(value: Any) -> Any:
    """What a value is: the type of a tensor, of several, or of a symbolic number."""
    if not isinstance(value, TensorType | sympy.Expr) and type(value) is not int and value is not None:
        if not isinstance(value, tuple):
            raise Unreadable("a type that is none")
        for item in value:
            _kind(item)
    return value


def _made_of_facts(value: Any) -> Facts:
    if not isinstance(value, Facts):
        raise Unreadable("facts that are none")
    return value


def _label_text(value: Any) -> str | None:
    return value if value is None else _text(value)


_LABELS: dict[str, Callable[[Any], Any]] = {
    "type": _kind,
    "depends_on_images": _truth,
    "per_target": _truth,
    "facts": _made_of_facts,
    "stream_of": lambda value: [_text(item) for item in _list(value)],
    "puts_out": lambda value: [_text(item) for item in _list(value)],
    **dict.fromkeys(
        ("module", "source", "stream", "rule", "layer", "site", "symbol", "equation", "value_of"), _label_text
    ),
}
