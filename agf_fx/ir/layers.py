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


PUTS_OUT = "puts_out"
"""In the metadata of a call: paths of the modules whose output its value is."""


def mark_outputs(canonical: CanonicalGraph) -> None:
    """Write on calls which modules put them out, in the graph as the model was exported.

    A module that is called several times, or puts out several values, is left out. Rewrites keep a mark where the value
    stays what it is; where a sign, a factor, a bias or a norm becomes part of a layer, what stood between is gone, and
    the mark with it.
    """
    leaving: dict[str, list[fx.Node]] = {}
    for node in canonical.calls:
        readers = [user.meta["module"] if user.op == "call_function" else None for user in node.users]
        parts = node.meta["module"].split(".")
        for path in [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]:
            outside = any(reader is None or not _within(reader, path) for reader in readers)
            if path and outside and depends_on_images(node) and isinstance(node.meta["type"], TensorType):
                leaving.setdefault(path, []).append(node)
    for path, nodes in leaving.items():
        if len(nodes) == 1:
            nodes[0].meta[PUTS_OUT] = [*nodes[0].meta.get(PUTS_OUT, ()), path]


def output_of(canonical: CanonicalGraph, path: str) -> fx.Node:
    """The value that module ``path`` puts out, such as ``"layer4"`` or ``"features.3"``; "" is the model.

    Raises:
        OptionsError: the model has no such module, or not one value that others read comes out of it.
    """
    if not path:
        return canonical.logits
    found = [node for node in canonical.calls if path in node.meta.get(PUTS_OUT, ())]
    if found:
        return found[0]
    known = modules(canonical)
    if path not in known:
        close = difflib.get_close_matches(path, known, 3, 0.4)
        hint = (
            f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; there are {', '.join(known[:12])}, …"
        )
        raise OptionsError(f"{canonical.name} has no layer {path!r} that computes something of the images{hint}")
    raise OptionsError(
        f"layer {path!r} of {canonical.name} puts out no single value of the graph: it is called several times, or "
        "puts out several values, or a norm, a bias, a sign or a factor behind it has become part of it. Name one of "
        "its parts, or the layer behind it."
    )


def modules(canonical: CanonicalGraph) -> list[str]:
    """Paths of the modules that compute something of the images, and of those around them, in order of execution."""
    found: dict[str, None] = {}
    for node in canonical.calls:
        for path in (_module(node), *node.meta.get(PUTS_OUT, ())) if depends_on_images(node) else ():
            parts = path.split(".") if path else ()
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
    return node.meta["module"]


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
