"""Layers of a model by the names of its modules: which value a module puts out."""

from __future__ import annotations

import difflib

from torch import fx

from agf_fx.errors import OptionsError
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import TensorType
from agf_fx.ir.vocabulary import depends_on_images

PUTS_OUT = "puts_out"
"""In the metadata of a call: the modules whose output its value is, by path; a call of several as ``path#2``."""

CALLS = "calls"
"""In the metadata of a call, until outputs are marked: module path -> how often the module had been called before."""


def mark_outputs(canonical: CanonicalGraph) -> None:
    """Write on calls which modules put them out, in the graph as the model was exported.

    Where a module is called several times, each call has a mark of its own, ``relu#1`` and ``relu#2``, by its number
    among all calls, also those that compute nothing of the images; a call that puts out several values has none.
    Rewrites keep a mark where the value stays what it is; where a sign, a factor, a bias or a norm becomes part of a
    layer, what stood between is gone, and the mark with it.
    """
    leaving: dict[str, dict[tuple[int, ...], list[fx.Node]]] = {}
    for node in canonical.calls:
        if not depends_on_images(node):
            continue
        for path, call in _entered(node).items():
            nodes = leaving.setdefault(path, {}).setdefault(call, [])
            outside = any(user.op != "call_function" or _entered(user).get(path) != call for user in node.users)
            if outside and isinstance(node.meta["type"], TensorType):
                nodes.append(node)
    for path, calls in leaving.items():
        again = any(call[-1] for call in calls)  # else it is called once, or, as a list of modules, never itself
        for place, (call, nodes) in enumerate(calls.items(), 1):
            if len(nodes) == 1:
                number = call[-1] + 1 if again else place
                mark = f"{path}#{number}" if again or len(calls) > 1 else path
                nodes[0].meta[PUTS_OUT] = [*nodes[0].meta.get(PUTS_OUT, ()), mark]
    for node in canonical.calls:
        node.meta.pop(CALLS, None)


def output_of(canonical: CanonicalGraph, path: str) -> fx.Node:
    """The value that module ``path`` puts out, such as ``"layer4"`` or ``"features.3"``; "" is the model.

    Of a module that is called several times, ``"relu#2"`` is what the second call puts out.

    Raises:
        OptionsError: the model has no such module, or not one value that others read comes out of it.
    """
    if not path:
        return canonical.logits
    names = {path, path.removesuffix("#1")}  # the only call may be named as the first one, too
    found = [node for node in canonical.calls if names & {*node.meta.get(PUTS_OUT, ())}]
    if found:
        return found[0]
    known, module = modules(canonical), path.partition("#")[0]
    if module not in known:
        close = difflib.get_close_matches(path, known, 3, 0.4)
        hint = (
            f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; there are {', '.join(known[:12])}, …"
        )
        raise OptionsError(f"{canonical.name} has no layer {path!r} that computes something of the images{hint}")
    raise OptionsError(f"layer {path!r} of {canonical.name} {_why_none(canonical, path)}")


def _why_none(canonical: CanonicalGraph, asked: str) -> str:
    """Why a module of the model has no output, and which name to give instead."""
    path, numbered, _ = asked.partition("#")
    marks = [mark for node in canonical.calls for mark in node.meta.get(PUTS_OUT, ())]
    calls = [mark for mark in marks if mark.startswith(f"{path}#")]
    if path in marks:
        return f"does not exist: the one call that computes something of the images is {path!r}."
    if calls and numbered:
        return (
            "is no call with a value in the graph: it does not exist, computes nothing of the images, or a norm, a "
            f"bias, a sign or a factor behind it has become part of it; there are {', '.join(map(repr, calls))}."
        )
    if calls:
        return f"is called several times; name one call: {', '.join(map(repr, calls))}."
    parts = [mark for mark in marks if mark.startswith(f"{path}.")]
    named = f"name one of its parts ({', '.join(map(repr, parts[-6:]))}), or" if parts else "name"
    leaving = [
        node.name
        for node in canonical.calls
        if _within(_module(node), path) and any(not _within(_module(user), path) for user in _callers(node))
    ]
    if len(leaving) > 1:
        return (
            f"puts out several values, in one call or in several ({', '.join(leaving[:6])}); {named} the layer that "
            "reads the one that you mean."
        )
    return (
        "puts out no value of the graph: a norm, a bias, a sign or a factor behind it has become part of it; "
        f"{named} the layer behind it."
    )


def modules(canonical: CanonicalGraph) -> list[str]:
    """Paths of the modules that compute something of the images, and of those around them, in order of execution."""
    found: dict[str, None] = {}
    for node in canonical.calls:
        marks = [mark.partition("#")[0] for mark in node.meta.get(PUTS_OUT, ())]
        for path in (_module(node), *marks) if depends_on_images(node) else ():
            parts = path.split(".") if path else ()
            found |= dict.fromkeys(".".join(parts[: depth + 1]) for depth in range(len(parts)))
    return list(found)


def _entered(node: fx.Node) -> dict[str, tuple[int, ...]]:
    """The modules around a call, by path, and which call of them and of those around them it is in."""
    parts, calls = _module(node).split("."), node.meta.get(CALLS, {})
    paths = [".".join(parts[: depth + 1]) for depth in range(len(parts))] if parts != [""] else []
    return {path: tuple(calls.get(around, 0) for around in paths[: depth + 1]) for depth, path in enumerate(paths)}


def _callers(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if user.op == "call_function"]


def _module(node: fx.Node) -> str:
    return node.meta["module"]


def _within(module: str, path: str) -> bool:
    return not path or module == path or module.startswith(f"{path}.")
