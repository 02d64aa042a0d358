"""Rows of an explanation graph: what one operation is, and what one layer of the model is in it.

Text, tables, networkx, JSON and pages are made of these rows.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import sympy
from torch import fx

from agf_fx.errors import OptionsError
from agf_fx.ir import text
from agf_fx.ir.costs import NodeCost, node_cost, total
from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph, RuleNote
from agf_fx.ir.layers import modules
from agf_fx.ir.liveness import Copies, copies, largest, live_expressions
from agf_fx.ir.types import BATCH, TARGETS, TensorType
from agf_fx.ir.vocabulary import depends_on_images

PREPARATION, INPUT, RESULT = "prepare", "input", "result"  # parts of a graph besides those that streams are
RELEVANCE = "relevance"
SEED, READ_OUT, WEIGHTS = "(target)", "(map)", "(weights)"
"""What stands in the place of a layer: the classes and what the streams start with, maps, and weights alone."""

_SAME_OPERATION = "Φ_in = C"  # relevance of a layer without residual terms, in Attribution Guided Factorization
_FULL = ("guided_convolution", "flatten_boundary")


@dataclass(frozen=True)
class NodeView:
    """One operation of an explanation graph, or an input of it.

    Attributes:
        name: in the graph, which is unique.
        op: the operation, as in ``conv2d``; "input" and "output" of what is none.
        call: the operation with its arguments, as text.
        reads: names of the nodes that it reads.
        part: "prepare" for work that is done once per set of weights, "input", "result", and else its stream.
        stream: forward, gradient, relevance, read-out, ...
        rule: with its parameters, as in ``epsilon(ε=1e-06)``.
        symbol, equation: of what the rule computes there.
        layer: path of the module that it belongs to, as in ``layer1.0.conv1``; "" is the model itself.
        layer_type: class of that module; "" where it is not known.
        source: the line of the model's code, where it is known.
        site: the call of the canonical graph that it belongs to; "" for none.
        shape: of its value, with the symbols N (images) and K (targets); None of a number, or of several values.
        dtype: of its value, as in ``float32``; "" of a number, or of several values.
        flops: floating-point operations, an expression in N and K; None where the operation has no row.
        bytes: read and written, an expression in N and K.
        live: bytes alive while it runs, likewise: its value and all that are read later, without images and weights.
        product: whether it is a convolution or a product of matrices.
    """

    name: str
    op: str
    call: str
    reads: tuple[str, ...]
    part: str
    stream: str = ""
    rule: str = ""
    symbol: str = ""
    equation: str = ""
    layer: str = ""
    layer_type: str = ""
    source: str = ""
    site: str = ""
    shape: tuple[int | sympy.Expr, ...] | None = None
    dtype: str = ""
    flops: sympy.Expr | None = None
    bytes: sympy.Expr = sympy.S.Zero
    live: sympy.Expr = sympy.S.Zero
    product: bool = False

    @property
    def place(self) -> str:
        """The layer; or what stands in its place."""
        if self.layer or self.site:
            return self.layer
        return READ_OUT if self.stream == "read-out" or self.part == RESULT else SEED

    def attributes(self) -> dict[str, str]:
        """What it says as strings, what is empty left out: for formats that know no other values."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "reads", "product")}
        if self.shape is not None:
            named["shape"] = f"[{', '.join(map(str, self.shape))}]"
        return {key: str(value) for key, value in named.items() if value is not None and str(value)}


@dataclass(frozen=True)
class LayerView:
    """A layer of the model in an explanation graph: a call of the model, or all calls of a module.

    Attributes:
        name: path of the module; of a call that no module of its own makes, the operation behind the path.
        operation: the operation; of several calls, the class of the module.
        role: what the analyses found out, as in "input layer" or "head".
        rule: by which its relevance passes, or else the gradient, with parameters; of several calls, those of its
            convolutions and linear layers.
        form: "full" or "flat", of layers with and without residual terms in Attribution Guided Factorization; or both.
        calls: names of the calls of the canonical graph.
        nodes: number of operations of the explanation graph.
        products: number of convolutions and products of matrices among them.
        flops, bytes: of all of them together for a batch, expressions in N and K; without what is done once per set
            of weights.
        live: most bytes alive while one of them runs, likewise; see `NodeView`.
        prepared: operations done once per set of weights.
        share: of the floating-point operations of the whole graph, for one image and one target.
    """

    name: str
    operation: str
    role: str
    rule: str
    form: str
    calls: tuple[str, ...]
    nodes: int
    products: int
    flops: sympy.Expr
    bytes: sympy.Expr
    live: sympy.Expr
    prepared: int
    share: float


def node_views(explanation: ExplanationGraph, copied: Copies | None = None) -> list[NodeView]:
    """A row for every node, in order of execution; see `ExplanationGraph.nodes`.

    ``copied`` is what convolutions copy; if it is not given, what they do on a CPU where pictures are in channels-last.
    """
    explanation.infer_types()
    copied = copied or copies(explanation.canonical.image_type.dtype, channels_last=True)
    graphs = [explanation.graph, *([explanation.prepare.graph] if explanation.prepare else [])]
    live = {name: alive for graph in graphs for name, alive in live_expressions(graph, copied).items()}
    origins = _Origins(explanation.canonical, live)
    views = []
    links: dict[str, tuple[str, ...]] = {}
    if explanation.prepare:
        results = explanation.prepare.graph.output_node().args[0]
        links = {name: (node.name,) for node, name in zip(results, explanation.prepared, strict=True)}
        views = [origins.view(node, PREPARATION) for node in explanation.prepare.graph.nodes if node.op != "output"]
    known = {view.name for view in views}
    for node in explanation.graph.nodes:
        if node.name not in known:
            views.append(origins.view(node, "", links.get(node.name)))
    return views


class _Origins:
    """Where nodes come from in the model."""

    def __init__(self, canonical: CanonicalGraph, live: Mapping[str, sympy.Expr]) -> None:
        self._canonical, self._live = canonical, live
        self._calls = {node.name: node for node in canonical.graph.nodes}

    def view(self, node: fx.Node, part: str, reads: tuple[str, ...] | None = None) -> NodeView:
        """The row of a node."""
        meta, kind = node.meta, node.meta.get("type")
        site = self._calls.get(meta.get("site", ""))
        layer = meta.get("layer", "") or self._owner(node.name)
        cost: NodeCost = node_cost(node)
        is_call, is_tensor = node.op == "call_function", isinstance(kind, TensorType)
        return NodeView(
            name=node.name,
            op=text.op_name(node.target) if is_call else {"placeholder": "input"}.get(node.op, node.op),
            call=text.call(node),
            reads=reads if reads is not None else tuple(source.name for source in node.all_input_nodes),
            part=part if is_call and part else meta.get("stream", "") if is_call else _END[node.op],
            stream=meta.get("stream", ""),
            rule=meta.get("rule", ""),
            symbol=meta.get("symbol", ""),
            equation=meta.get("equation", ""),
            layer=layer,
            layer_type=self._canonical.modules.get(layer, "") if layer else "",
            source="" if site is None else site.meta.get("source", ""),
            site=meta.get("site", ""),
            shape=kind.shape if is_tensor else None,
            dtype=str(kind.dtype).removeprefix("torch.") if is_tensor else "",
            flops=cost.flops,
            bytes=cost.bytes,
            live=self._live.get(node.name, sympy.S.Zero),
            product=cost.product,
        )

    def _owner(self, name: str) -> str:
        """The module that has a weight."""
        return self._canonical.signature.weights.get(name, "").rpartition(".")[0]


_END = {"placeholder": INPUT, "output": RESULT}


def layer_views(
    explanation: ExplanationGraph, depth: int | None = None, views: Sequence[NodeView] | None = None
) -> list[LayerView]:
    """A row for every layer; see `ExplanationGraph.layers`."""
    return [row for row, _ in opened_layers(explanation, depth, views)]


def opened_layers(
    explanation: ExplanationGraph, depth: int | None = None, views: Sequence[NodeView] | None = None
) -> list[tuple[LayerView, list[NodeView]]]:
    """The same rows, each with the operations that are counted in it, in order of execution.

    Args:
        explanation: the graph.
        depth: see `ExplanationGraph.layers`.
        views: the rows of its operations, where they are known.
    """
    groups = _groups(explanation.canonical, depth)
    of_site = {site: group for group in groups.values() for site in group.calls}
    of_path = {path: group for group in groups.values() for path in group.paths}
    for place in (SEED, READ_OUT, WEIGHTS):
        groups[place] = _Group(place)
    views = explanation.nodes() if views is None else views
    reached = _reached(explanation, views)
    for view in views:
        if view.op in ("input", "output"):
            continue
        place = of_site.get(view.site) or of_path.get(view.layer if view.layer else None)
        place = place or groups[view.place if view.place in groups else WEIGHTS]
        place.views.append(view)
    every = [view for group in groups.values() for view in group.views if view.part != PREPARATION]
    whole = float(_at_one(total(view.flops for view in every if view.flops is not None))) or 1.0
    rows = [(group.row(explanation, reached, whole), group.views) for group in groups.values()]
    kept = [(row, inside) for row, inside in rows if row.calls or row.nodes or row.prepared]
    return sorted(kept, key=lambda pair: pair[0].name != SEED)


@dataclass
class _Group:
    """Calls of the model in one row, and the nodes that belong to them."""

    name: str
    operation: str = ""
    calls: dict[str, fx.Node] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    views: list[NodeView] = field(default_factory=list)

    def row(self, explanation: ExplanationGraph, reached: Mapping[str, set[str]], whole: float) -> LayerView:
        """The row."""
        run = [view for view in self.views if view.part != PREPARATION]
        flops = total(view.flops for view in run if view.flops is not None)
        rules = _rules(explanation, self.calls, reached)
        roles = (str(facts(node)) for node in self.calls.values())
        return LayerView(
            name=self.name,
            operation=self.operation,
            role=", ".join(dict.fromkeys(role for text in roles for role in text.split(", ") if role)),
            rule=", ".join(dict.fromkeys(rule.name for rule in rules)),
            form=" and ".join(dict.fromkeys(form for rule in rules if (form := form_of(rule)))),
            calls=tuple(self.calls),
            nodes=len(run),
            products=sum(view.product for view in run),
            flops=flops,
            bytes=total(view.bytes for view in run),
            live=largest(view.live for view in run),
            prepared=len(self.views) - len(run),
            share=float(_at_one(flops)) / whole,
        )


def form_of(rule: RuleNote) -> str:
    """ "full" for a layer's rule with residual terms, "flat" for one without, "" for any other."""
    if rule.name.startswith(_FULL):
        return "full"
    return "flat" if rule.equation == _SAME_OPERATION else ""


def _reached(explanation: ExplanationGraph, views: Iterable[NodeView]) -> dict[str, set[str]]:
    """Stream -> calls of the model that it comes to: those behind the first that has a node of it."""
    seen: dict[str, set[str]] = defaultdict(set)
    for view in views:
        seen[view.stream].add(view.site)
    order = [node.name for node in explanation.canonical.graph.nodes]
    places = {name: place for place, name in enumerate(order)}
    first = {
        stream: min((places[site] for site in sites if site in places), default=0) for stream, sites in seen.items()
    }
    return {stream: set(order[place:]) for stream, place in first.items()}


def _rules(
    explanation: ExplanationGraph, calls: Mapping[str, fx.Node], reached: Mapping[str, set[str]]
) -> list[RuleNote]:
    """The rules of a row: by relevance, or else by the gradient; of its layers, if it has any."""
    for stream in sorted(explanation.rules, key=lambda name: name != RELEVANCE):
        of, within = explanation.rules[stream], reached.get(stream, set())
        found = {name: of[name] for name in calls if name in of and name in within}
        weighty = [note for name, note in found.items() if _has_weight(calls[name])]
        if found:
            return weighty or list(found.values())
    return []


def _has_weight(node: fx.Node) -> bool:
    """Whether a call of the model is a convolution or a product of matrices."""
    return node_cost(node).product


def _groups(canonical: CanonicalGraph, depth: int | None) -> dict[str, _Group]:
    """The calls of the model that compute something of the images, by row, in order of execution."""
    calls = [node for node in canonical.calls if depends_on_images(node)]
    of_module = Counter(node.meta["module"] for node in calls)
    groups: dict[str, _Group] = {}
    repeated: Counter[str] = Counter()
    for node in calls:
        path, operation = node.meta["module"], text.op_name(node.target)
        if depth is not None and path:
            key = ".".join(path.split(".")[:depth])
        else:
            key = path if path and of_module[path] == 1 else f"{path}.{operation}".lstrip(".")
            repeated[key] += 1
            key = key if repeated[key] == 1 else f"{key}#{repeated[key]}"
        group = groups.setdefault(key, _Group(key, operation))
        if group.calls:
            group.operation = canonical.modules.get(key) or group.operation
        group.calls[node.name] = node
        group.paths.append(path)
    return groups


def module_paths(explanation: ExplanationGraph) -> dict[str, str]:
    """Name of a layer that is one call -> path of the module that makes it."""
    groups = _groups(explanation.canonical, None)
    return {name: group.paths[0] for name, group in groups.items()}


def _at_one(expression: sympy.Expr) -> sympy.Expr:
    return sympy.sympify(expression).subs({BATCH: 1, TARGETS: 1})


def screen_depth(explanation: ExplanationGraph, rows: int = 30) -> int:
    """The depth of modules at which a table of layers has at most ``rows`` rows; 1 if none has."""
    deepest = max((path.count(".") + 1 for path in _paths(explanation.canonical)), default=1)
    fitting = [depth for depth in range(1, deepest + 1) if len(_groups(explanation.canonical, depth)) <= rows]
    return max(fitting, default=1)


def _paths(canonical: CanonicalGraph) -> Iterable[Any]:
    return (node.meta["module"] for node in canonical.calls if depends_on_images(node) and node.meta["module"])


def of_layer(explanation: ExplanationGraph, layer: str) -> list[NodeView]:
    """The operations of a module and of those inside, or of what stands in its place: ``"(target)"``, ``"(map)"``.

    Raises:
        OptionsError: the model has no such layer.
    """
    views = [view for view in explanation.nodes() if view.op not in ("input", "output")]
    found = [view for view in views if view.place == layer or view.place.startswith(f"{layer}.")]
    if not found:  # a call that the model itself makes, by the name of its operation
        calls = next((row.calls for row in layer_views(explanation) if row.name == layer), ())
        found = [view for view in views if view.site in calls and view.site]
    if not found:
        known = list(dict.fromkeys(path for path in modules(explanation.canonical)))
        close = difflib.get_close_matches(layer, known, 3, 0.4)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {', '.join(known[:12])}, …"
        raise OptionsError(f"no operation of {explanation.canonical.name} belongs to a layer {layer!r}; {hint}")
    return found
