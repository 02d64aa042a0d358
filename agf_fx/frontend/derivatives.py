"""Vector-Jacobian products of single calls, captured from PyTorch's autograd as graphs.

A product is captured on fake tensors with a symbolic batch size and brought to a form that runs for any number of
images and targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils import _pytree as pytree

from agf_fx.ir.captured import CapturedVjp, tensor_arguments
from agf_fx.ir.shape_rules import result_type
from agf_fx.ir.types import BATCH, TensorType, carried_type, type_of
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten


class Unfit(Exception):
    """The derivative of a call cannot be captured, with the reason in the words for the user."""


@dataclass(frozen=True)
class Call:
    """A call of an unknown operation, as a function of its tensor arguments.

    Attributes:
        node: the call.
        tensors: its arguments that are nodes, see `tensor_arguments`.
        operands: positions of the arguments with gradients.
        carrying: for every operand, or every item where an operand is a list: its position in ``tensors``.
    """

    node: fx.Node
    tensors: list[fx.Node]
    operands: tuple[int, ...]
    carrying: list[int]

    @staticmethod
    def of(node: fx.Node) -> Call:
        """Find out what can carry relevance.

        Raises:
            Unfit: nothing can, or the operation is random or none of PyTorch's.
        """
        if not isinstance(node.target, torch._ops.OpOverload):
            raise Unfit("it is no operation with a derivative of its own.")
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise Unfit("it is random.")
        kind = carried_type(node)
        if not isinstance(kind, TensorType) or not kind.dtype.is_floating_point:
            raise Unfit(f"its result ({kind}) has no derivative.")
        if any(_reads_further(user) for user in node.users if isinstance(node.meta["type"], tuple)):
            raise Unfit("the model reads more than the first of its results.")
        operands = tuple(i for i, argument in enumerate(node.args) if any(map(_carries, _items(argument))))
        if not operands:
            raise Unfit("it reads the images through no floating-point argument.")
        tensors = tensor_arguments(node, node.args, node.kwargs)
        items = [item for position in operands for item in _items(node.args[position])]
        if not all(isinstance(item, fx.Node) for item in items):
            raise Unfit("a list among its arguments holds more than tensors.")
        before = [len(list(_nodes(node.args[:position]))) for position in operands]
        counts = [len(_items(node.args[position])) for position in operands]
        carrying = [start + i for start, count in zip(before, counts, strict=True) for i in range(count)]
        return Call(node, tensors, operands, carrying)

    def run(self, values: list[Any]) -> Any:
        """The first result on other values."""
        leaves, spec = pytree.tree_flatten((tuple(self.node.args), dict(self.node.kwargs)))
        given = iter(values)
        args, kwargs = pytree.tree_unflatten([next(given) if isinstance(x, fx.Node) else x for x in leaves], spec)
        result = self.node.target(*args, **kwargs)
        return result[0] if isinstance(self.node.meta["type"], tuple) else result

    def gradients(self, *values: Any) -> list[Tensor | None]:
        """Autograd's gradients; the last of ``values`` is the gradient at the result."""
        *values, g = values
        varying = [i for i in self.carrying if depends_on_images(self.tensors[i])]
        for i in varying:
            values[i] = values[i].detach().requires_grad_()
        with torch.enable_grad():
            y = self.run(values)
        if not y.requires_grad:
            raise Unfit("it has no derivative.")
        found = torch.autograd.grad(y, [values[i] for i in varying], g, allow_unused=True)
        given = dict(zip(varying, found, strict=True))
        if all(gradient is None for gradient in found):
            raise Unfit("it has no derivative.")
        return [
            None if i not in given else torch.zeros_like(values[i]) if given[i] is None else given[i]
            for i in self.carrying
        ]

    def signature(self) -> str:
        """What the captured product depends on."""
        leaves, spec = pytree.tree_flatten((tuple(self.node.args), dict(self.node.kwargs)))
        kinds = [
            (str(x.meta["type"]), x.meta["depends_on_images"]) if isinstance(x, fx.Node) else repr(x) for x in leaves
        ]
        return f"{self.node.target} {kinds} {spec}"


def _reads_further(user: fx.Node) -> bool:
    return user.args[1] != 0 and user.meta["type"].dtype.is_floating_point


def _items(argument: Any) -> list[Any]:
    return list(argument) if isinstance(argument, tuple | list) else [argument]


def _nodes(argument: Any) -> Iterator[fx.Node]:
    yield from (leaf for leaf in pytree.tree_leaves(argument) if isinstance(leaf, fx.Node))


def _carries(argument: Any) -> bool:
    return depends_on_images(argument) and carried_type(argument).dtype.is_floating_point


def captured_vjp(call: Call, device: torch.device) -> CapturedVjp:
    """Autograd's products of a call, on fake tensors.

    Raises:
        Unfit: there are none, or they depend on the batch size in a way that has no form for any number of samples.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv())
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
    size = mode.from_tensor(torch.empty(5, device="meta"), symbolic_context=context).shape[0]

    def fake(kind: Any) -> Any:
        if isinstance(kind, TensorType):
            return torch.empty([scaled(extent, size) for extent in kind.shape], dtype=kind.dtype, device=device)
        return scaled(kind, size)

    try:
        with mode, enable_python_dispatcher():
            values = [fake(kind) for kind in (*(node.meta["type"] for node in call.tensors), carried_type(call.node))]
            graph = make_fx(call.gradients)(*values).graph
            if any(_mutates(node) for node in graph.nodes):
                captured = fx.GraphModule(nn.Module(), graph)
                graph = make_fx(functionalize(captured, remove="mutations"))(*values).graph
    except Unfit:
        raise
    except Exception as error:  # whatever an operation, or its derivative, raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise Unfit(f"PyTorch finds no derivative of it ({reason}).") from error
    _type(graph, {size.node.expr: BATCH})
    _clean(graph)
    return CapturedVjp(graph, call.operands, _entrywise(graph))


def scaled(extent: int | sympy.Expr, batch: Any) -> Any:
    """An extent, which may be an expression in N, for a batch size."""
    return extent if isinstance(extent, int) else sympy.lambdify(BATCH, extent, modules="math")(batch)


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _type(graph: fx.Graph, symbols: dict[sympy.Expr, sympy.Expr]) -> None:
    """Write types, and which values depend on the gradient, the last placeholder, other than by their size."""
    gradient = graph.find_nodes(op="placeholder")[-1]
    for node in graph.nodes:
        if node.op != "output":
            kind = type_of(node.meta.get("val"), symbols)
            sources = [source for source in node.all_input_nodes if not isinstance(source.meta["type"], sympy.Expr)]
            per_target = node is gradient or any(source.meta["per_target"] for source in sources)
            node.meta = {"type": kind, "per_target": per_target and not isinstance(kind, sympy.Expr)}


_RESHAPES = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)
_SAME = (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)
_CREATIONS = {
    aten.zeros.default: aten.new_zeros.default,
    aten.ones.default: aten.new_ones.default,
    aten.empty.memory_format: aten.new_empty.default,
    aten.full.default: aten.new_full.default,
    aten.scalar_tensor.default: aten.new_full.default,
}
_LIKE = {
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_empty.default,
    aten.new_full.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.empty_like.default,
    aten.full_like.default,
}


def _clean(graph: fx.Graph) -> None:
    """No names for the same value, no number fixed at capture, dtype and device from arguments, arguments by position.

    Raises:
        Unfit: a size has no form, or samples meet.
    """
    for node in list(graph.nodes):
        if node.target in _SAME:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    _erase_dead(graph)
    if graph.find_nodes(op="placeholder")[-1].meta["type"].batch_dim is None:
        raise Unfit("its derivative fixes the batch size.")
    for node in [node for node in graph.nodes if node.op == "call_function"]:
        if isinstance(node.meta["type"], TensorType | tuple):
            _write_out(graph, node)
    _erase_dead(graph)
    for node in graph.nodes:
        if node.op == "call_function":
            _check(node)


def _erase_dead(graph: fx.Graph) -> None:
    """Also calls that only check something: what they check, the call itself has checked."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users:
            graph.erase_node(node)


def _write_out(graph: fx.Graph, node: fx.Node) -> None:
    """One call by position, on the dtype and device of what it reads, with sizes from tensors."""
    arguments, kwargs = _by_position(node)
    first = next(iter(graph.nodes))
    if node.target in _CREATIONS and node.meta["type"].dtype == first.meta["type"].dtype:
        if node.target is aten.scalar_tensor.default:
            arguments.insert(0, [])
        node.target, arguments, kwargs = _CREATIONS[node.target], [first, *arguments], {}
    if node.target in _LIKE and node.meta["type"].dtype == arguments[0].meta["type"].dtype:
        kwargs = {}
    if node.target in _RESHAPES and sum(_is_size(extent) for extent in arguments[1]) == 1:
        node.target = aten.reshape.default
        arguments[1] = [-1 if _is_size(extent) else extent for extent in arguments[1]]
    if node.target is aten.slice.Tensor:
        arguments = _slice(*arguments)
    node.args, node.kwargs = fx.map_arg((tuple(arguments), kwargs), lambda source: _sized(graph, node, source))


def _by_position(node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, by position where they may be, with defaults, and the others by keyword."""
    arguments, kwargs = list(node.args), dict(node.kwargs)
    if isinstance(node.target, torch._ops.OpOverload):
        for schema in node.target._schema.arguments[len(arguments) :]:
            if not schema.kwarg_only and (schema.name in kwargs or node.target not in _LIKE):
                arguments.append(kwargs.pop(schema.name, schema.default_value))
    return arguments, kwargs


def _slice(x: fx.Node, dim: int, start: Any, end: Any, step: int) -> list[Any]:
    """The arguments of a slice with explicit ends."""
    extent = x.meta["type"].shape[dim]
    if isinstance(extent, int) and isinstance(start, int | None) and isinstance(end, int | None):
        start, end, _ = slice(start, end).indices(extent)
    return [x, dim % x.meta["type"].rank, start, end, step]


def _is_size(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta["type"], sympy.Expr)


def _sized(graph: fx.Graph, reader: fx.Node, source: fx.Node) -> fx.Node:
    """``source``; if it is a size, the size of a tensor that has as many samples, and targets, as ``reader``."""
    if not _is_size(source):
        return source
    size = source.meta["type"]
    *tensors, gradient = graph.find_nodes(op="placeholder")
    for tensor in [gradient] if reader.meta["per_target"] else tensors:
        kind = tensor.meta["type"]
        if isinstance(kind, TensorType) and size in kind.shape:
            with graph.inserting_before(reader):
                extent = graph.call_function(aten.sym_size.int, (tensor, kind.shape.index(size)))
            extent.meta = {"type": size, "per_target": reader.meta["per_target"]}
            return extent
    raise Unfit(f"its derivative computes with the batch size ({size}).")


def _check(node: fx.Node) -> None:
    """Check that a call has a form for every number of samples, and the type that explanation graphs give it."""
    kind = node.meta["type"]
    numbers = [source for source in node.all_input_nodes if source.meta["type"] is None]
    if (
        kind is None
        or numbers
        or any(isinstance(x, torch.SymInt | torch.SymFloat) for x in pytree.tree_leaves(node.args))
    ):
        raise Unfit("its derivative computes with numbers that depend on values or on the batch size.")
    if node.meta["per_target"] and isinstance(kind, TensorType) and kind.batch_dim is None:
        raise Unfit("its derivative mixes the samples of a batch.")
    known = [_typed(argument) for argument in node.args]
    try:
        predicted = result_type(node.target, known)
    except Exception as error:  # a rule of the table that does not know this use
        raise Unfit(f"its derivative uses {node.target} in an unusual way.") from error
    if predicted is not None and predicted != kind:
        raise Unfit(f"its derivative uses {node.target} in an unusual way ({predicted} is {kind}).")


def _typed(argument: Any) -> Any:
    if isinstance(argument, fx.Node):
        return argument.meta["type"]
    return [_typed(item) for item in argument] if isinstance(argument, tuple | list) else argument


def _entrywise(graph: fx.Graph) -> bool:
    """Whether gradients may have a dimension more in front in all that depends on them."""
    return all(
        map(_broadcasts, (node for node in graph.nodes if node.op == "call_function" and node.meta["per_target"]))
    )


def _broadcasts(node: fx.Node) -> bool:
    if torch.Tag.pointwise not in getattr(node.target, "tags", ()) or node.target._schema.name.endswith("_backward"):
        return False
    ranks = [(source.meta["per_target"], source.meta["type"].rank) for source in node.all_input_nodes]
    of_targets = {rank for per_target, rank in ranks if per_target}
    return len(of_targets) == 1 and all(rank <= max(of_targets) for _, rank in ranks)
