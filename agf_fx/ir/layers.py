"""Layers of a model by the names of its modules: which value a module puts out."""

from __future__ import annotations

import difflib

from torch import fx

from agf_fx.errors import OptionsError
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import TensorType
from agf_fx.ir.vocabulary import depends_on_images

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


def _module(node: fx.Node) -> str:
    return node.meta["module"]


def _within(module: str, path: str) -> bool:
    return not path or module == path or module.startswith(f"{path}.")
