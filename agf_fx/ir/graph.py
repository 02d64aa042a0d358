"""The two graphs of the compiler: the canonical graph of a model, and the explanation graph made from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import fx, nn

from agf_fx.ir import shapes, text
from agf_fx.ir.types import TensorType

if TYPE_CHECKING:
    import networkx as nx

    from agf_fx.ir.views import LayerView, NodeView

PREPARED = "prepared_"  # begins the name of every prepared constant
BASELINE = "baseline"  # the input that holds what images are compared with, for methods that compare


@dataclass(frozen=True)
class Signature:
    """What a graph takes besides its images, and how the model supplies it.

    Attributes:
        weights: placeholder name -> dotted path of the parameter or buffer in the model.
        constants: placeholder name -> tensor that the model's code created itself.
    """

    weights: Mapping[str, str]
    constants: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class CanonicalGraph:
    """A classifier as a graph of vocabulary operations: ``(images, *weights, *constants) -> logits``.

    Attributes:
        name: class name of the model.
        graph: the torch.fx graph. Every node has ``meta["type"]``; calls have ``meta["module"]`` (module path),
            ``meta["source"]`` (the user's source line), ``meta["depends_on_images"]`` and ``meta["facts"]``.
        signature: where weights and constants come from.
        analysed: whether all facts are known.
        modules: module path -> name of the module's class.
    """

    name: str
    graph: fx.Graph
    signature: Signature
    analysed: bool = False
    modules: Mapping[str, str] = field(default_factory=dict)

    @property
    def images(self) -> fx.Node:
        """The placeholder of the images."""
        return next(iter(self.graph.nodes))

    @property
    def logits(self) -> fx.Node:
        """The node whose value is the model's output, of shape (N, classes)."""
        return self.graph.output_node().args[0]

    @property
    def image_type(self) -> TensorType:
        """Shape and dtype of the images that the graph was captured with."""
        return self.images.meta["type"]

    @property
    def num_classes(self) -> int:
        """Number of classes: logits per image, or per position."""
        return self.logits.meta["type"].shape[1]

    @property
    def positions(self) -> tuple[int, ...]:
        """The shape over which the logits spread: () for a classifier, (H, W) for a segmentation network."""
        return self.logits.meta["type"].shape[2:]

    @property
    def calls(self) -> list[fx.Node]:
        """The operations, in order of execution."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    def forward(self, images: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> dict[fx.Node, Any]:
        """Run the model.

        Args:
            images: (N, C, H, W).
            inputs: placeholder name -> weight or constant.

        Returns:
            The value of every node; the logits (N, classes) are at ``logits``.
        """
        given = [inputs[node.name] for node in self.graph.find_nodes(op="placeholder") if node is not self.images]
        program = fx.Interpreter(fx.GraphModule(nn.Module(), self.graph), garbage_collect_values=False)
        program.run(images, *given)
        return program.env

    def to_networkx(self) -> nx.DiGraph:
        """The dataflow from images to logits: nodes are node names, with ``op``, ``module`` and ``facts``."""
        return dataflow(node for node in self.graph.nodes if node.meta.get("depends_on_images"))

    def __str__(self) -> str:
        return text.canonical_text(self)

    def __repr__(self) -> str:
        logits = self.logits.meta["type"]
        return (
            f"CanonicalGraph({self.name}: {self.image_type} -> {logits}, {len(self.calls)} calls; print it to read it)"
        )


def class_name(model: str, method: str) -> str:
    """The name of the class of an explanation's module: an identifier, whatever the method is called."""
    return re.sub(r"\W", "_", f"{model}_{method}")


class LayerOutput(NamedTuple):
    """What an explanation graph also returns.

    Attributes:
        layer: path of a module, whose output is meant.
        quantity: ``"relevance"`` or ``"gradient"``, (N, K, ...), or ``"value"``, (N, ...).
    """

    layer: str
    quantity: str

    @property
    def per_target(self) -> bool:
        """Whether it has a dimension of targets."""
        return self.quantity != "value"


class RuleNote(NamedTuple):
    """What a rule says of itself; see `agf_fx.rules.rule.Rule`.

    Attributes:
        name: with its parameters, as in ``epsilon(ε=1e-06)``.
        symbol: of what it computes.
        equation: the formula.
        promise: what it promises of the sum of relevance, as it divides.
        source: the paper.
    """

    name: str
    symbol: str = ""
    equation: str = ""
    promise: str = ""
    source: str = ""


@dataclass(frozen=True, repr=False)
class ExplanationGraph:
    """A compiled explanation: ``(images, target, *weights, *constants) -> (maps, logits)``.

    Shapes: images (N, C, H, W), target (N, K) int64, maps (N, K, H, W), logits (N, classes); N and K are free. Once
    weight-only work is hoisted, there are two graphs: ``prepare`` maps weights and constants to prepared constants,
    and ``module`` maps ``(images, target, *weights it still reads, *prepared constants)`` to the result.

    Attributes:
        module: the graph module. Each call has ``meta["stream"]`` (forward, gradient, relevance or read-out),
            ``meta["rule"]``, ``meta["layer"]`` (module path), ``meta["symbol"]`` and ``meta["equation"]``.
        canonical: the graph it was emitted from.
        method: name of the method.
        prepare: the graph module of the weight-only work, ``(*weights, *constants) -> tuple``; None if not hoisted.
        layer_outputs: what it returns after maps and logits: layers of the model, and which quantity of each.
        rules: stream -> canonical call -> the rule by which the stream passes it, be there nodes of it or not.
        faithful: names of canonical calls whose rules hand relevance to every entry that hands a gradient, for passes;
            empty in graphs that are read from a file, which are optimised already.
    """

    module: fx.GraphModule
    canonical: CanonicalGraph
    method: str
    prepare: fx.GraphModule | None = None
    faithful: frozenset[str] = frozenset()
    layer_outputs: tuple[LayerOutput, ...] = ()
    rules: Mapping[str, Mapping[str, RuleNote]] = field(default_factory=dict)

    @property
    def graph(self) -> fx.Graph:
        """The torch.fx graph."""
        return self.module.graph

    @property
    def inputs(self) -> list[str]:
        """Names of what ``module`` takes after images and target: weights, constants, prepared constants."""
        return [node.name for node in self.graph.nodes if node.op == "placeholder"][2:]

    @property
    def prepared(self) -> list[str]:
        """Names of the prepared constants, in the order in which ``prepare`` returns them."""
        return [name for name in self.inputs if name.startswith(PREPARED)]

    def infer_types(self) -> None:
        """Give every node its ``meta["type"]``, by running the graph on fake tensors with a symbolic batch size."""
        if any("type" not in node.meta for node in self.graph.nodes if node.op != "output"):
            shapes.infer_types(self)

    def nodes(self) -> list[NodeView]:
        """Its operations, what is prepared first: what each computes, for which layer, at which cost."""
        from agf_fx.ir.views import node_views

        return node_views(self)

    def layers(self, depth: int | None = None) -> list[LayerView]:
        """The layers of the model, in order of execution, with the rules that they have and what they cost.

        Args:
            depth: modules so deep are one row each, as ``layer1.0`` at 2; None: a row for every call of the model.
        """
        from agf_fx.ir.views import layer_views

        return layer_views(self, depth)

    def to_networkx(self) -> nx.DiGraph:
        """The computation as a directed graph, what is prepared from the weights included.

        Nodes are node names in order of execution, with the attributes ``op``, ``stream``, ``rule``, ``layer``,
        ``symbol``, ``equation``, ``dtype`` and ``shape`` and others (strings; the batch size is ``N``; those of
        `agf_fx.ir.views.NodeView`, where they say something); edges run from a value to its readers.
        """
        import networkx as nx  # takes longer to import than a cached graph to load

        graph, views = nx.DiGraph(), self.nodes()
        for view in views:
            graph.add_node(view.name, **view.attributes())
        for view in views:
            graph.add_edges_from((source, view.name) for source in view.reads)
        return graph

    def _repr_html_(self) -> str:
        """For notebooks: a table of its layers."""
        from agf_fx.ir.html import layers_html

        return layers_html(self)

    def __str__(self) -> str:
        self.infer_types()
        return text.explanation_text(self)

    def __repr__(self) -> str:
        images, hoisted = self.canonical.image_type, len(self.prepare.graph.nodes) if self.prepare else 0
        return (
            f"ExplanationGraph({self.canonical.name} by {self.method}: images {images}, {len(self)} nodes, "
            f"{hoisted} prepared once; print it to read it)"
        )

    def __len__(self) -> int:
        return len(self.graph.nodes)


def tensor_at(model: nn.Module, path: str) -> torch.Tensor | None:
    """The parameter, buffer or tensor attribute of ``model`` at a dotted path, or None.

    Read from the modules' own tables: ``getattr`` gives a proxy while another thread traces the model.
    """
    *parents, name = path.split(".")
    module: nn.Module | None = model
    for parent in parents:
        module = module._modules.get(parent) if isinstance(module, nn.Module) else None
    if not isinstance(module, nn.Module):
        return None
    tables = (module._parameters, module._buffers, vars(module))
    value = next((table[name] for table in tables if name in table), None)
    return value if isinstance(value, torch.Tensor) else None


def dataflow(nodes: Iterable[fx.Node]) -> nx.DiGraph:
    """A networkx graph over ``nodes``, keyed by node name; edges to nodes outside are left out."""
    import networkx as nx  # takes longer to import than a cached graph to load

    nodes = list(nodes)
    names = {node.name for node in nodes}
    graph = nx.DiGraph()
    for node in nodes:
        graph.add_node(node.name, **_attributes(node))
    for node in nodes:
        graph.add_edges_from((source.name, node.name) for source in node.all_input_nodes if source.name in names)
    return graph


def _attributes(node: fx.Node) -> dict[str, str]:
    attributes = {"op": node.op if node.op != "call_function" else text.op_name(node.target)}
    for key in ("module", "facts"):
        if key in node.meta:
            attributes[key] = str(node.meta[key])
    kind = node.meta.get("type")
    if isinstance(kind, TensorType):
        attributes |= {"dtype": str(kind.dtype).removeprefix("torch."), "shape": str(list(kind.shape))}
    return attributes
