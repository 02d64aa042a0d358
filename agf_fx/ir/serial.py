"""Graphs as plain data and back: lists, dictionaries, strings and numbers, and tensors beside them.

Reading runs no code of the data: operations are looked up by name among PyTorch's own, everything else is values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn

from agf_fx.ir.captured import CapturedVjp
from agf_fx.ir.facts import Facts, FlattenBoundary
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph, Signature
from agf_fx.ir.types import BATCH, TARGETS, TensorType

_CANONICAL_META = ("type", "module", "source", "depends_on_images", "facts")
_EXPLANATION_META = ("type", "stream", "rule", "layer", "site", "symbol", "equation", "stream_of", "value_of")
_CAPTURED_META = ("type", "per_target")

_SYMBOLS = {"N": BATCH, "K": TARGETS}
_FORMS = {"Add": sympy.Add, "Mul": sympy.Mul, "Pow": sympy.Pow, "floor": sympy.floor, "Mod": sympy.Mod}
_TORCH = {torch.dtype: "dtype", torch.memory_format: "memory_format", torch.layout: "layout"}


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
    data = {
        "name": canonical.name,
        "weights": dict(signature.weights),
        "constants": list(signature.constants),
        "graph": _Writer(_CANONICAL_META).graph(canonical.graph),
    }
    return data, dict(signature.constants)


def read_canonical(data: Mapping[str, Any], constants: Mapping[str, Tensor]) -> CanonicalGraph:
    """The inverse of `write_canonical`.

    Raises:
        Unreadable: see there.
    """
    with _unreadable():
        kept = {name: constants[name] for name in data["constants"]}
        graph = _Reader(data["graph"]).graph()
        for node in graph.find_nodes(op="placeholder"):
            if node.name in kept:
                node.meta["constant"] = kept[node.name]
        return CanonicalGraph(data["name"], graph, Signature(data["weights"], kept))


def write_explanation(explanation: ExplanationGraph) -> dict[str, Any]:
    """An explanation graph as data, without the canonical graph that it was emitted from.

    Raises:
        Unwritable: see there.
    """
    return {
        "method": explanation.method,
        "class": type(explanation.module).__name__,
        "graph": _Writer(_EXPLANATION_META).graph(explanation.graph),
        "prepare": explanation.prepare and _Writer(_EXPLANATION_META).graph(explanation.prepare.graph),
    }


def read_explanation(data: Mapping[str, Any], canonical: CanonicalGraph) -> ExplanationGraph:
    """The inverse of `write_explanation`.

    Raises:
        Unreadable: see there.
    """
    with _unreadable():
        module = fx.GraphModule(nn.Module(), _Reader(data["graph"]).graph(), data["class"])
        prepare = data["prepare"] and _Reader(data["prepare"]).graph()
        hoisted = prepare and fx.GraphModule(nn.Module(), prepare, f"{canonical.name}_prepare")
        return ExplanationGraph(module, canonical, data["method"], hoisted or None)


class _unreadable:
    """Whatever goes wrong while data is read means that it is none of ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, Unreadable):
            raise Unreadable(f"{type(error).__name__}: {error}") from error


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
        target = self._shared(_target_name(node.target)) if node.op == "call_function" else 0
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


class _Reader:
    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self._nodes: list[fx.Node] = []
        self._table = [_from_meta_data(entry) for entry in data["table"]]

    def graph(self) -> fx.Graph:
        graph = fx.Graph()
        for op, name, target, args, kwargs, labels in self._data["nodes"]:
            if op == "output":
                node = graph.output(self._value(args)[0])
            elif op == "placeholder":
                node = graph.placeholder(name)
            elif op == "call_function":
                called = _target(self._table[target])
                node = graph.create_node(op, called, tuple(self._value(args)), self._value(kwargs), name=name)
            else:
                raise Unreadable(f"a node of kind {op}")
            if node.name != name:
                raise Unreadable(f"the name {name} is taken")
            node.meta = {
                key: _fresh(self._table[entry])
                for key, entry in zip(self._data["meta"], labels, strict=True)
                if entry >= 0
            }
            self._nodes.append(node)
        return graph

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "node":
            return self._nodes[content]
        if kind == "map":
            return {key: self._value(item) for key, item in content.items()}
        if kind == "float":
            return float.fromhex(content)
        if kind == "device":
            return torch.device(content)
        if kind in _TORCH.values():
            return _torch_constant(kind, content)
        raise Unreadable(f"an argument of kind {kind}")


def _fresh(value: Any) -> Any:
    """Lists in a node's metadata are its own."""
    return list(value) if isinstance(value, list) else value


def _target_name(target: Callable[..., Any]) -> str:
    if target is operator.getitem:
        return "getitem"
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return f"{target.overloadpacket.__name__}.{target._overloadname}"
    raise Unwritable(f"the operation {target}")


def _target(name: str) -> Callable[..., Any]:
    if name == "getitem":
        return operator.getitem
    packet, _, overload = name.partition(".")
    target = getattr(getattr(torch.ops.aten, packet), overload)
    if not isinstance(target, torch._ops.OpOverload):
        raise Unreadable(f"{name} is no operation")
    return target


def _torch_constant(kind: str, name: str) -> Any:
    """A dtype, memory format or layout by name."""
    value = getattr(torch, name)
    if _TORCH.get(type(value)) != kind:
        raise Unreadable(f"torch.{name} is no {kind}")
    return value


def _meta_data(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, TensorType):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"tensor": [dtype, [_dimension_data(size) for size in value.shape]]}
    if isinstance(value, sympy.Expr):
        return {"size": _dimension_data(value)}
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
    return _META[kind](content)


def _facts(content: Mapping[str, Any]) -> Facts:
    return Facts(**{name: _from_meta_data(value) for name, value in content.items()})


_META: dict[str, Callable[[Any], Any]] = {
    "tensor": lambda content: TensorType(
        tuple(_dimension(size) for size in content[1]), _torch_constant("dtype", content[0])
    ),
    "size": lambda content: _dimension(content),
    "facts": _facts,
    "boundary": lambda content: FlattenBoundary(tuple(content[0]), content[1]),
    "vjp": lambda content: CapturedVjp(_Reader(content[0]).graph(), tuple(content[1]), content[2]),
    "tuple": lambda content: tuple(_from_meta_data(item) for item in content),
    "list": lambda content: [_from_meta_data(item) for item in content],
}


def _dimension_data(size: int | sympy.Expr) -> Any:
    """A size: a number, the name of a symbol, or [form, *arguments]."""
    if isinstance(size, int):
        return size
    if size.is_Integer:
        return ["int", int(size)]
    if size in _SYMBOLS.values():
        return size.name
    if size.is_Rational:
        return ["ratio", int(size.p), int(size.q)]
    form = type(size).__name__
    if _FORMS.get(form) is not type(size):
        raise Unwritable(f"a size {size}")
    return [form, *map(_dimension_data, size.args)]


def _dimension(data: Any) -> int | sympy.Expr:
    if isinstance(data, int):
        return data
    if isinstance(data, str):
        return _SYMBOLS[data]
    form, *content = data
    if form == "int":
        return sympy.Integer(content[0])
    if form == "ratio":
        return sympy.Rational(*content)
    return _FORMS[form](*map(_dimension, content))
