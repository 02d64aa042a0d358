"""Values of an ONNX graph with Python's operators, and the writer that collects the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor

from agf_fx.exports.onnx.sizes import Type

DTYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}


class Inexpressible(Exception):
    """A call has no ONNX form; the message says why."""


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the ONNX graph; its operators append nodes, and numbers take its dtype.

    Attributes:
        writer: the graph that it belongs to.
        name: its name there.
        dtype: of its entries.
        kind: dtype and shape, where the value stands for one of the explanation graph; None for values in between.
    """

    writer: Writer
    name: str
    dtype: torch.dtype
    kind: Type | None = None

    @property
    def shape(self) -> tuple[int | str | None, ...]:
        """Sizes, as in `Type`."""
        return self.kind.shape

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __add__(self, other: Operand) -> Value:
        return apply("Add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return apply("Add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return apply("Sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return apply("Sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return apply("Mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return apply("Mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return apply("Div", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return apply("Div", other, self)

    def __floordiv__(self, other: Operand) -> Value:
        return apply("Div", self, other)  # of sizes, which are integers and not negative

    def __mod__(self, other: Operand) -> Value:
        return apply("Mod", self, other)  # of integers; the result has the sign of the divisor

    def __neg__(self) -> Value:
        return apply("Neg", self)

    def __lt__(self, other: Operand) -> Value:
        return apply("Less", self, other, dtypes=torch.bool)

    def __le__(self, other: Operand) -> Value:
        return apply("LessOrEqual", self, other, dtypes=torch.bool)

    def __gt__(self, other: Operand) -> Value:
        return apply("Greater", self, other, dtypes=torch.bool)

    def __ge__(self, other: Operand) -> Value:
        return apply("GreaterOrEqual", self, other, dtypes=torch.bool)


Operand = Value | float | Sequence[Any] | None


def apply(
    op: str, *operands: Operand, dtypes: torch.dtype | tuple[torch.dtype, ...] | None = None, **attributes: Any
) -> Any:
    """Append a node.

    Args:
        op: ONNX operator.
        operands: values; numbers, which take the dtype of the first value; lists of integers and of values with one
            entry, which become an int64 vector; None for an input left out.
        dtypes: of the result, by default that of the first value; of several results, a tuple.
        attributes: of the node; None for an attribute left out.

    Returns:
        A Value, or a tuple of them for a tuple of dtypes.
    """
    first = next(operand for operand in operands if isinstance(operand, Value))
    inputs = [_as_value(first, operand) for operand in operands]
    several = dtypes if isinstance(dtypes, tuple) else (dtypes or first.dtype,)
    results = first.writer.append(op, inputs, several, attributes)
    return results if isinstance(dtypes, tuple) else results[0]


def _as_value(first: Value, operand: Operand) -> Value | None:
    if operand is None or isinstance(operand, Value):
        return operand
    if isinstance(operand, int | float):
        return first.writer.constant(torch.tensor(operand, dtype=first.dtype))
    return vector(first.writer, operand)


def vector(writer: Writer, entries: Sequence[int | Value]) -> Value:
    """An int64 vector of integers and of values with one entry."""
    parts: list[Value | list[int]] = []
    for entry in entries:
        if isinstance(entry, Value):
            parts.append(entry)
        elif parts and isinstance(parts[-1], list):
            parts[-1].append(entry)
        else:
            parts.append([entry])
    values = [p if isinstance(p, Value) else writer.constant(torch.tensor(p, dtype=torch.int64)) for p in parts or [[]]]
    return apply("Concat", *values, axis=0) if len(values) > 1 else values[0]


def cast(x: Value, dtype: torch.dtype) -> Value:
    """``x`` in a dtype."""
    if x.dtype is dtype:
        return x
    kind = x.kind and Type(dtype, x.shape)
    return replace(apply("Cast", x, dtypes=dtype, to=onnx_dtype(dtype)), kind=kind)


def equal(a: Value, b: Operand) -> Value:
    """The mask [a = b]; Python's == compares the objects."""
    return apply("Equal", a, b, dtypes=torch.bool)


def where(mask: Value, a: Value | float, b: Value | float) -> Value:
    """``a`` where the mask holds, else ``b``; at least one of them is a value."""
    like = a if isinstance(a, Value) else b
    return apply("Where", mask, *(_as_value(like, operand) for operand in (a, b)), dtypes=like.dtype)


def onnx_dtype(dtype: torch.dtype) -> int:
    """ONNX's number of a dtype.

    Raises:
        Inexpressible: runtimes do not compute in it.
    """
    if dtype not in DTYPES:
        name = str(dtype).removeprefix("torch.")
        raise Inexpressible(f"ONNX runtimes do not compute in {name}; compile with another precision")
    return DTYPES[dtype]


class Writer:
    """Collects nodes and constants. A node that is there already is not written again.

    Attributes:
        nodes: in order.
        constants: by name.
        shapes: of results whose shape runtimes cannot find out, by name.
        scope: begins the names of new values.

    Args:
        reserved: names of inputs and outputs, which no other value gets.
    """

    def __init__(self, reserved: Sequence[str] = ()) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Tensor] = {}
        self.shapes: dict[str, Type] = {}
        self.scope = ""
        self._names = set(reserved)
        self._known: dict[Any, Any] = {}

    def append(
        self, op: str, inputs: Sequence[Value | None], dtypes: tuple[torch.dtype, ...], attributes: dict[str, Any]
    ) -> tuple[Value, ...]:
        """Append a node and return its results."""
        names = [value.name if value else "" for value in inputs]
        key = (op, *names, repr(sorted(attributes.items())), len(dtypes))
        if key not in self._known:
            results = tuple(Value(self, self._fresh(self.scope), dtype) for dtype in dtypes)
            outputs = [result.name for result in results]
            self.nodes.append(helper.make_node(op, names, outputs, **attributes))
            self._known[key] = results
        return self._known[key]

    def constant(self, tensor: Tensor, name: str | None = None) -> Value:
        """A constant; those without a name of their own are written once if they are equal."""
        if name is not None:
            return self._stored(tensor, name)
        key = (tensor.dtype, tensor.shape, _bytes(tensor))
        if key not in self._known:
            self._known[key] = self._stored(tensor, "constant")
        return self._known[key]

    def _stored(self, tensor: Tensor, name: str) -> Value:
        onnx_dtype(tensor.dtype)
        value = Value(self, self._fresh(name), tensor.dtype, Type(tensor.dtype, tuple(tensor.shape)))
        self.constants[value.name] = tensor
        return value

    def named(self, value: Value, name: str) -> Value:
        """The same value under a reserved name."""
        self.nodes.append(helper.make_node("Identity", [value.name], [name]))
        return replace(value, name=name)

    def input(self, name: str, kind: Type) -> Value:
        """An input of the graph, by a reserved name."""
        return Value(self, name, kind.dtype, kind)

    def _fresh(self, stem: str) -> str:
        name, count = stem, 1
        while name in self._names:
            name, count = f"{stem}.{count}", count + 1
        self._names.add(name)
        return name


def to_proto(name: str, tensor: Tensor) -> TensorProto:
    """A constant as ONNX stores it."""
    return TensorProto(name=name, data_type=onnx_dtype(tensor.dtype), dims=list(tensor.shape), raw_data=_bytes(tensor))


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
