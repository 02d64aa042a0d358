"""A graph run on shapes and dtypes alone: what could not run, or not in bounds, is found without running it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx

from agf_fx.ir.operations import IN_PLACE
from agf_fx.ir.sizes import BadSize, value_at
from agf_fx.ir.types import TensorType
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS

aten = torch.ops.aten

IMAGES, TARGETS = 3, 2  # sizes above 1 that differ
_MOST_ENTRIES = 2**42  # of one value


class Form(NamedTuple):
    """Shape and dtype of a value, for `IMAGES` images and `TARGETS` targets."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class WrongGraph(Exception):
    """A graph cannot run, or gives something else than it says."""


_WRITING = frozenset(IN_PLACE.values())
_FUNCTIONS = (aten.clamp_min, aten.clamp_max, aten.exp, aten.reciprocal, aten.rsqrt, aten.sqrt)
_ENTRYWISE = {*IN_PLACE, *_WRITING, aten.threshold_backward.default, *(function.default for function in _FUNCTIONS)}
_KNOWN: dict[Any, Any] = {}  # results of calls met before; cleared when there are many
_MANY = 20000


def form_of(kind: Any) -> Any:
    """The form of a type: of a tensor, of several, or of a symbolic number."""
    if isinstance(kind, TensorType):
        shape = tuple(value_at(size, IMAGES, TARGETS) for size in kind.shape)
        if not all(type(size) is int and size >= 0 for size in shape):
            raise BadSize(f"a type {kind}")
        return Form(shape, kind.dtype)
    if isinstance(kind, tuple):
        return tuple(map(form_of, kind))
    return value_at(kind, IMAGES, TARGETS)


def dry_run(graph: fx.Graph, inputs: Mapping[str, Any]) -> dict[fx.Node, Any]:
    """The forms of all values of a graph, by what PyTorch itself says of every call.

    Args:
        graph: placeholders, calls and one output.
        inputs: forms of the placeholders, by name.

    Returns:
        A `Form`, a tuple of them or a number for every node but the output.

    Raises:
        WrongGraph: a call cannot be made, its result is too large, or a node's ``meta["type"]`` says another one.
    """
    forms: dict[fx.Node, Any] = {}
    said: dict[int, Any] = {}  # by type: nodes of one graph share few
    for node in graph.nodes:
        if node.op == "placeholder":
            if node.name not in inputs:
                raise WrongGraph(f"an input {node.name} that nobody gives")
            forms[node] = inputs[node.name]
        elif node.op == "call_function":
            forms[node] = _call(node, forms)
            kind = node.meta.get("type")
            if kind is not None:
                if id(kind) not in said:
                    said[id(kind)] = form_of(kind)
                if said[id(kind)] != forms[node]:
                    raise WrongGraph(f"%{node.name} is {forms[node]} and not {said[id(kind)]}")
    return forms


def _call(node: fx.Node, forms: Mapping[fx.Node, Any]) -> Any:
    """The form of one call; equal calls are made once."""
    args = tuple([_resolved(argument, forms) for argument in node.args])
    if node.target in _ENTRYWISE and not node.kwargs:
        form = _entrywise(node.target, args[:2] if node.target is aten.threshold_backward.default else args)
        if form is not None:
            return form
    kwargs = tuple((name, _resolved(value, forms)) for name, value in node.kwargs.items())
    if node.target.__name__ == "getitem":
        return args[0][args[1]]
    key = (node.target, args, tuple(map(type, args)), kwargs)
    if key not in _KNOWN:
        if len(_KNOWN) > _MANY:
            _KNOWN.clear()
        _KNOWN[key] = _made(node, args, dict(kwargs))
    return _KNOWN[key]


def _entrywise(target: Callable[..., Any], args: tuple[Any, ...]) -> Form | None:
    """The form of an operation on every entry, where that is plain: on numbers of one dtype, which broadcast."""
    first, second = args[0], args[-1]
    if type(first) is not Form or not first.dtype.is_floating_point or len(args) > 2:
        return None
    if second is first or second == first or type(second) in (int, float):
        return first
    if type(second) is not Form or second.dtype != first.dtype:
        return None
    rank = max(len(first.shape), len(second.shape))
    one, other = ((1,) * (rank - len(form.shape)) + form.shape for form in (first, second))
    if any(a != b and a != 1 and b != 1 for a, b in zip(one, other, strict=True)):
        return None  # PyTorch says it in its own words
    shape = tuple([b if a == 1 else a for a, b in zip(one, other, strict=True)])
    if math.prod(shape) > _MOST_ENTRIES or (target in _WRITING and shape != first.shape):
        return None
    return Form(shape, first.dtype)


def _resolved(argument: Any, forms: Mapping[fx.Node, Any]) -> Any:
    if isinstance(argument, fx.Node):
        return forms[argument]
    if isinstance(argument, list | tuple):
        return tuple([_resolved(item, forms) for item in argument])
    return argument


def _made(node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    target: Callable[..., Any] = node.target
    for position, channels in _per_channel(target, args):
        if position < len(args) and args[position] is not None and args[position].shape != (channels,):
            raise WrongGraph(f"%{node.name} reads {args[position]} for {channels} channels")
    if target is aten.batch_norm.default:
        return args[0]
    try:
        with torch.no_grad():
            result = target(*map(_tensors, args), **{name: _tensors(value) for name, value in kwargs.items()})
    except Exception as error:  # whatever PyTorch says of wrong arguments
        reason = " ".join(str(error).split())[:200]
        raise WrongGraph(f"%{node.name} cannot be computed ({type(error).__name__}: {reason})") from error
    return _form(result)


def _per_channel(target: Callable[..., Any], args: Sequence[Any]) -> list[tuple[int, int]]:
    """Positions of arguments with an entry for every channel, and their number: PyTorch's shapes do not tell."""
    if target in CONVOLUTIONS:
        return [(2, args[1].shape[0])]
    if target in TRANSPOSED_CONVOLUTIONS:
        return [(2, args[1].shape[1] * (args[6] if len(args) > 6 else 1))]
    if target is aten.batch_norm.default:
        return [(position, args[0].shape[1]) for position in range(1, 5)]
    if target is aten.group_norm.default:
        return [(position, args[0].shape[1]) for position in (2, 3)]
    if target is aten.linear.default:
        return [(2, args[1].shape[0])]
    return []


def _tensors(value: Any) -> Any:
    """Tensors on the meta device in the place of forms; other devices are replaced by it."""
    if isinstance(value, Form):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, tuple):
        return [_tensors(item) for item in value]
    return torch.device("meta") if isinstance(value, torch.device) else value


def _form(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.numel() > _MOST_ENTRIES:
            raise WrongGraph(f"a value of shape {tuple(value.shape)}")
        return Form(tuple(value.shape), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(map(_form, value))
    return value
