"""Layers of a model by the names of its modules: which value a module puts out, and where its channels are."""

from __future__ import annotations

import difflib

import torch
from torch import fx

from agf_fx.errors import OptionsError
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import TensorType, carried_type
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, depends_on_images, signals

aten = torch.ops.aten

_POOLINGS = (
    *(aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default, aten.avg_pool2d.default),
    *(aten.avg_pool3d.default, aten.max_pool2d.default, aten.max_pool3d.default),
)


def output_of(canonical: CanonicalGraph, path: str) -> fx.Node:
    """The value that module ``path`` puts out, such as ``"layer4"`` or ``"features.3"``; "" is the model.

    Raises:
        OptionsError: the model has no such module, or not one value that others read comes out of it.
    """
    inside = [node for node in canonical.calls if _within(_module(node), path) and depends_on_images(node)]
    known = modules(canonical)
    if not inside:
        close = difflib.get_close_matches(path, known, 3, 0.4)
        hint = (
            f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; there are {', '.join(known[:12])}, …"
        )
        raise OptionsError(f"{canonical.name} has no layer {path!r} that computes something of the images{hint}")
    members = set(inside)
    leaving = [node for node in inside if any(user not in members for user in node.users)]
    tensors = [node for node in leaving if isinstance(node.meta["type"], TensorType)]
    if len(tensors) != 1:
        called = "is called several times, or puts out several values" if tensors else "puts out no tensor"
        raise OptionsError(f"layer {path!r} of {canonical.name} {called}; name one of its parts.")
    return tensors[0]


def modules(canonical: CanonicalGraph) -> list[str]:
    """Paths of the modules that compute something of the images, and of those around them, in order of execution."""
    found: dict[str, None] = {}
    for node in canonical.calls:
        parts = _module(node).split(".")
        if depends_on_images(node) and parts != [""]:
            found |= dict.fromkeys(".".join(parts[: depth + 1]) for depth in range(len(parts)))
    return list(found)


def last_with_positions(canonical: CanonicalGraph) -> fx.Node:
    """The last value with several positions, like (N, C, H, W), that everything behind it is computed from.

    Raises:
        OptionsError: there is none.
    """
    rank = canonical.image_type.rank
    for node in reversed(canonical.calls):
        kind = node.meta["type"]
        if not isinstance(kind, TensorType) or not depends_on_images(node) or kind.rank != rank or not kind.batched:
            continue
        if any(isinstance(size, int) and size > 1 for size in kind.shape[2:]) and _decides(canonical, node):
            return node
    raise OptionsError(
        f"no value of {canonical.name} is a feature map of {rank - 2} dimensions that everything behind it is computed "
        "from; name a layer."
    )


def last_of_each_size(canonical: CanonicalGraph) -> list[fx.Node]:
    """Of the feature maps that everything behind them is computed from, the last of each size; in order of execution.

    Such are the outputs of a network's stages.

    Raises:
        OptionsError: there is none.
    """
    found: dict[tuple, fx.Node] = {}
    for node in reversed(canonical.calls):
        kind = node.meta["type"]
        if not isinstance(kind, TensorType) or not depends_on_images(node) or not kind.batched:
            continue
        if kind.rank != canonical.image_type.rank:
            continue
        channel = channels_of(node)
        size = tuple(length for dim, length in enumerate(kind.shape) if dim not in (0, channel))
        if channel is not None and size not in found and max(size) > 1 and _decides(canonical, node):
            found[size] = node
    if not found:
        return [last_with_positions(canonical)]
    return list(reversed(found.values()))


def feature_map(canonical: CanonicalGraph, node: fx.Node) -> fx.Node:
    """``node``, if it is a feature map: with the dimensions of the images, and known channels.

    Raises:
        OptionsError: it is not.
    """
    kind = carried_type(node)
    if kind.rank != canonical.image_type.rank or not kind.batched or channels_of(node) is None:
        raise OptionsError(
            f"layer {_module(node)!r} of {canonical.name} puts out {kind}, which is no feature map of "
            f"{canonical.image_type.rank - 2} dimensions; name another layer."
        )
    return node


def channels_of(node: fx.Node) -> int | None:
    """The dimension of a feature map that holds channels, by the layers that made it, or else by those that read it.

    None where neither tells.
    """
    made = _channels_made(node)
    return _channels_read(node) if made is None else made


def _channels_read(node: fx.Node) -> int | None:
    """By what convolutions, norms and linear layers read of it, behind functions of single entries."""
    pending, seen = [node], set()
    while pending:
        value = pending.pop(0)
        for reader in value.users:
            kind = reader.meta.get("type")
            if reader in seen or not isinstance(kind, TensorType) or reader.op != "call_function":
                continue
            seen.add(reader)
            if reader.target in (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, aten.batch_norm.default, *_POOLINGS):
                return 1
            if reader.target in (aten.linear.default, aten.layer_norm.default):
                return carried_type(value).rank - 1
            if reader.target is aten.mean.dim and len(reader.args[1]) == _rank(value) - 2:
                (left,) = {*range(1, _rank(value))} - {dim % _rank(value) for dim in reader.args[1]}
                return left
            if kind.shape == carried_type(value).shape:
                pending.append(reader)
    return None


def _rank(node: fx.Node) -> int:
    return carried_type(node).rank


def _channels_made(node: fx.Node) -> int | None:
    dim, reading = None, node
    turned: list[list[int]] = []
    while True:
        if reading.target in (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, aten.batch_norm.default):
            dim = 1
        elif reading.target in (aten.linear.default, aten.layer_norm.default):
            dim = carried_type(reading).rank - 1
        if dim is not None:
            for order in reversed(turned):
                dim = order.index(dim)
            return dim
        if reading.target is aten.permute.default:
            turned.append([axis % len(reading.args[1]) for axis in reading.args[1]])
        elif reading.op != "call_function" or reading.target is aten.reshape.default:
            return None
        kept = [source for source in signals(reading) if _rank(source) == _rank(reading)]
        alike = [source for source in kept if carried_type(source).shape == carried_type(reading).shape]
        if not kept:
            return None
        reading = (alike or kept)[0]


def _module(node: fx.Node) -> str:
    """The module whose output a value is: of a layer with a folded norm, the norm."""
    return node.meta.get("puts_out", node.meta["module"])


def _within(module: str, path: str) -> bool:
    return not path or module == path or module.startswith(f"{path}.")


def _decides(canonical: CanonicalGraph, node: fx.Node) -> bool:
    """Whether the logits depend on the images through ``node`` alone."""
    seen, pending = {node}, [canonical.logits]
    while pending:
        reading = pending.pop()
        if reading is canonical.images:
            return False
        if reading not in seen:
            seen.add(reading)
            pending.extend(source for source in reading.all_input_nodes if depends_on_images(source))
    return True
