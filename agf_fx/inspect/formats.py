"""Explanation graphs in formats of other programs: node-link JSON, GraphML, Graphviz, Google's Model Explorer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agf_fx.atomic import atomic_write
from agf_fx.errors import MissingDependencyError, OptionsError
from agf_fx.inspect.difference import constant_digests
from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.views import PREPARATION, NodeView, module_paths, opened_layers

_COLOURS = {  # of streams: Okabe and Ito's, which colour-blind eyes tell apart
    "forward": "#56B4E9",
    "gradient": "#E69F00",
    "relevance": "#009E73",
    "read-out": "#CC79A7",
    PREPARATION: "#DDDDDD",
}
_OTHER = "#F0E442"


def stream_colour(part: str) -> str:
    """The colour of the operations of a stream, or of preparation."""
    return _COLOURS.get(part, _OTHER)


def node_link(explanation: ExplanationGraph) -> dict[str, Any]:
    """networkx's node-link data: ``nodes`` with ``id`` and attributes, ``edges`` with ``source`` and ``target``.

    ``graph`` says what the graph is called, and which layers it has, with their rules and calls.
    """
    import networkx as nx

    graph = explanation.to_networkx()
    graph.graph["title"] = f"{explanation.canonical.name} by {explanation.method}"
    graph.graph["constants"] = constant_digests(explanation.canonical)
    paths = module_paths(explanation)
    graph.graph["layers"] = [
        {
            "name": layer.name,
            "path": paths.get(layer.name, ""),
            "rule": layer.rule,
            "calls": layer.calls,
            "nodes": [view.name for view in views],
        }
        for layer, views in opened_layers(explanation)
    ]
    return nx.node_link_data(graph, edges="edges")


def graphml(explanation: ExplanationGraph) -> str:
    """GraphML, as yEd, Gephi and networkx read it; all attributes are strings."""
    import networkx as nx

    return "\n".join(nx.generate_graphml(explanation.to_networkx()))


def model_explorer(explanation: ExplanationGraph) -> dict[str, Any]:
    """The JSON graph of Google's Model Explorer: one graph, its nodes nested by module and coloured by stream.

    Format: ``graph_builder.py`` of google-ai-edge/model-explorer, which reads such a file as it is.
    """
    nodes = [_explorer_node(view) for view in explanation.nodes()]
    canonical = explanation.canonical
    graph = {"id": f"{canonical.name} by {explanation.method}", "nodes": nodes}
    return {"label": canonical.name, "graphs": [graph]}


def _explorer_node(view: NodeView) -> dict[str, Any]:
    attributes = {key: value for key, value in view.attributes().items() if key not in ("op", "shape", "dtype")}
    node: dict[str, Any] = {
        "id": view.name,
        "label": view.name if view.op in ("input", "output") else view.op,
        "namespace": "/".join(part.replace("/", "_") for part in _namespace(view)),
        "attrs": [{"key": key, "value": value} for key, value in attributes.items()],
        "incomingEdges": [
            {"sourceNodeId": source, "sourceNodeOutputId": "0", "targetNodeInputId": str(position)}
            for position, source in enumerate(view.reads)
        ],
        "style": {"backgroundColor": stream_colour(view.part)},
    }
    if view.shape is not None:
        shape = f"{view.dtype}[{', '.join(map(str, view.shape))}]"
        node["outputsMetadata"] = [{"id": "0", "attrs": [{"key": "shape", "value": shape}]}]
    return node


def _namespace(view: NodeView) -> list[str]:
    """Modules from the outside in, and the stream; inputs and results stand outside of all."""
    if view.op in ("input", "output") and not view.layer:
        return []
    return [*(view.place.split(".") if view.place else []), view.part]


def dot(explanation: ExplanationGraph, depth: int | None = None) -> str:
    """Graphviz, top to bottom: operations in boxes of their modules, or, with a depth, the layers alone.

    Args:
        explanation: the graph.
        depth: modules so deep are one node each; None: every operation is one.
    """
    lines = [
        "digraph explanation {",
        '  graph [rankdir=TB, fontname="sans-serif"];',
        '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=10];',
        *(_layers(explanation, depth) if depth is not None else _operations(explanation)),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _operations(explanation: ExplanationGraph) -> list[str]:
    views = explanation.nodes()
    tree: dict[str, Any] = {}
    for view in views:
        place = tree
        for part in view.place.split(".") if view.place and view.op not in ("input", "output") else []:
            place = place.setdefault(part, {})
        place.setdefault("", []).append(view)
    edges = [f"  {_quoted(source)} -> {_quoted(view.name)};" for view in views for source in view.reads]
    return [*_boxes(tree, "", "  "), *edges]


def _boxes(tree: dict[str, Any], path: str, indent: str) -> list[str]:
    lines = []
    for name, inside in tree.items():
        if name == "":
            lines += [f"{indent}{_node(view)}" for view in inside]
            continue
        whole = f"{path}.{name}" if path else name
        lines.append(f"{indent}subgraph {_quoted(f'cluster_{whole}')} {{")
        lines.append(f"{indent}  label={_quoted(whole)};")
        lines += [*_boxes(inside, whole, f"{indent}  "), f"{indent}}}"]
    return lines


def _node(view: NodeView) -> str:
    shape = "" if view.shape is None else f"\n{view.dtype}[{', '.join(map(str, view.shape))}]"
    label = f"{view.name if view.op in ('input', 'output') else view.op}{shape}"
    tip = view.equation or view.call
    colour = "#FFFFFF" if view.op in ("input", "output") else stream_colour(view.part)
    return f"{_quoted(view.name)} [label={_quoted(label)}, tooltip={_quoted(tip)}, fillcolor={_quoted(colour)}];"


def _layers(explanation: ExplanationGraph, depth: int) -> list[str]:
    """Layers with their rules, and what flows between them in the model."""
    rows = [row for row in explanation.layers(depth) if row.calls]
    of_call = {call: row.name for row in rows for call in row.calls}
    lines = []
    for row in rows:
        details = [row.name, row.operation, f"{row.rule} ({row.form})" if row.form else row.rule, f"{row.share:.1%}"]
        label = "\n".join(detail for detail in details if detail)
        lines.append(f"  {_quoted(row.name)} [label={_quoted(label)}, fillcolor={_quoted(_COLOURS['forward'])}];")
    edges: dict[tuple[str, str], int] = defaultdict(int)
    for node in explanation.canonical.calls:
        for source in node.all_input_nodes:
            ends = of_call.get(source.name), of_call.get(node.name)
            if None not in ends and ends[0] != ends[1]:
                edges[ends] += 1
    return [*lines, *(f"  {_quoted(source)} -> {_quoted(target)};" for source, target in edges)]


def _quoted(text: str) -> str:
    """A string of Graphviz: quotes and backslashes escaped, line breaks as it writes them."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def svg(explanation: ExplanationGraph, depth: int | None = None) -> str:
    """A drawing, by the program ``dot`` of Graphviz.

    Raises:
        MissingDependencyError: it is not installed.
        OptionsError: it cannot draw the graph.
    """
    program = shutil.which("dot")
    if program is None:
        raise MissingDependencyError(
            'SVG is drawn by the program "dot" of Graphviz, which is not installed; install it (Debian and Ubuntu: '
            "apt-get install graphviz), or write DOT and draw it elsewhere."
        )
    done = subprocess.run(
        [program, "-Tsvg"], input=dot(explanation, depth), capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip()[:200]
        raise OptionsError(f"dot cannot draw the graph ({reason}); give a depth, which makes it small.")
    return done.stdout


def _json(made: Callable[[ExplanationGraph], dict[str, Any]]) -> Callable[[ExplanationGraph, int | None], str]:
    return lambda explanation, _: json.dumps(made(explanation), ensure_ascii=False, indent=1) + "\n"


FORMATS: dict[str, Callable[[ExplanationGraph, int | None], str]] = {
    "node-link": _json(node_link),
    "model-explorer": _json(model_explorer),
    "graphml": lambda explanation, _: graphml(explanation) + "\n",
    "dot": dot,
    "svg": svg,
}
"""Name -> what makes the text of a file; the second argument is the depth of layers, which drawings heed."""

_ENDINGS = {".json": "node-link", ".graphml": "graphml", ".dot": "dot", ".gv": "dot", ".svg": "svg"}


def save(
    explanation: ExplanationGraph, path: str | os.PathLike[str], format: str | None = None, depth: int | None = None
) -> None:
    """Write a graph to a file, which appears whole or not at all.

    Args:
        explanation: the graph.
        path: the file.
        format: one of `FORMATS`; None: as the ending says (.json is node-link).
        depth: of the modules that a drawing shows as one node each; None: all operations.

    Raises:
        OptionsError: there is no such format, or the ending tells none.
        MissingDependencyError: SVG without Graphviz.
    """
    ending = Path(path).suffix.lower()
    chosen = format or _ENDINGS.get(ending)
    if chosen not in FORMATS:
        known = ", ".join(map(repr, FORMATS))
        given = chosen or ending or "no ending"
        raise OptionsError(f"the format of {os.fspath(path)!r} is not known ({given}); choose one of {known}.")
    text = FORMATS[chosen](explanation, depth)
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))
