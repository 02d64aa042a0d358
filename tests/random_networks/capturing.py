"""Networks captured, several at once, and what every execution of their explanation gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from agf_fx.emit import Streams, interpret
from agf_fx.frontend.capture import capture
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph, Signature, tensor_at
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.methods.method import Method
from agf_fx.options import AGFOptions
from agf_fx.pipeline import lower, optimisations
from agf_fx.runtime.program import Program

METHOD = attribution_guided_factorization(AGFOptions())
EXACT = attribution_guided_factorization(AGFOptions(division="exact"))


@dataclass(frozen=True)
class Case:
    """A network with its canonical graph and both explanation graphs: as emitted, and optimised.

    Attributes:
        model: the network alone.
        root: the module that was captured, which may hold several networks.
        images: (N, C, ...).
        target: (N, K).
        canonical: this network's part of the captured graph, analysed.
        emitted: the explanation graph before any optimisation.
        program: the optimised graph, as the explainer runs it.
        weights: placeholder name -> weight or constant, in the order of the canonical graph.
        method: what it is explained by.
    """

    model: nn.Module
    root: nn.Module
    images: Tensor
    target: Tensor
    canonical: CanonicalGraph
    emitted: ExplanationGraph
    program: Program
    weights: dict[str, Tensor]
    method: Method = METHOD

    @staticmethod
    def of(source: str) -> Case:
        """One network, captured alone."""
        return cases([source])[0]

    def explain(self) -> tuple[Tensor, Tensor]:
        """Maps (N, K, ...) and logits by the graph as it was emitted."""
        weights = [self.weights[name] for name in self.emitted.inputs]
        with torch.no_grad():
            return self.emitted.module(self.images, self.target, *weights)

    def explain_optimised(self) -> Tensor:
        """Maps (N, K, ...) by the optimised graph."""
        maps, _ = self.program.run(self.images, self.target, self.program.inputs(self.root))
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Logits by the captured graph."""
        return self.canonical.forward(images, self.weights)[self.canonical.logits]

    def values(self) -> dict[str, Any]:
        """Canonical node name -> value."""
        with torch.no_grad():
            return {node.name: value for node, value in self.canonical.forward(self.images, self.weights).items()}

    def interpret(self, method: Method) -> Streams:
        """Every stream, rule by rule."""
        with torch.no_grad():
            return interpret(self.canonical, method, self.images, self.target, self.weights)

    @cached_property
    def streams(self) -> Streams:
        """Those of the method."""
        return self.interpret(self.method)

    def by(self, method: Method) -> Case:
        """The same network explained by another method, its graph as that wants it.

        Raises:
            CaptureError: the method refuses it.
        """
        return _case(_Network(self.model, self.images, self.target), self.root, self.canonical, method)


@dataclass(frozen=True)
class _Network:
    model: nn.Module
    images: Tensor
    target: Tensor


def _networks(sources: Sequence[str]) -> list[_Network]:
    found = []
    for source in sources:
        names: dict[str, Any] = {}
        exec(source, names)
        found.append(_Network(names["model"], names["images"], names["target"]))
    return found


class Together(nn.Module):
    """The logits of several networks on the same images, one after the other: (N, classes of all)."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([network(images) for network in self.networks], 1)


def cases(sources: Sequence[str]) -> list[Case]:
    """Networks on images of one shape, captured as one module, which is a good deal faster than one by one.

    What is captured for each is then compiled alone, as if it had been captured alone.
    """
    return [_case(*captured) for captured in captured_together(sources)]


def captured_together(sources: Sequence[str]) -> list[tuple[_Network, nn.Module, CanonicalGraph]]:
    """Every network with the module that was captured, and its part of the graph."""
    networks = _networks(sources)
    if len(networks) == 1:
        (network,) = networks
        return [(network, network.model, capture(network.model, network.images))]
    root = Together([network.model for network in networks]).eval()
    canonical = capture(root, networks[0].images)
    logits = canonical.logits.args[0]
    return [(network, root, _part(canonical, y)) for network, y in zip(networks, logits, strict=True)]


def _part(canonical: CanonicalGraph, logits: fx.Node) -> CanonicalGraph:
    """What ``logits``, a node inside the graph, is computed from."""
    needed, pending = {canonical.images}, [logits]
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending.extend(node.all_input_nodes)
    graph, copies = fx.Graph(), {}
    for node in canonical.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            copies[node].meta = dict(node.meta)
    graph.output(copies[logits])
    names = {node.name for node in graph.nodes}
    kept = [
        {k: v for k, v in given.items() if k in names}
        for given in (canonical.signature.weights, canonical.signature.constants)
    ]
    return replace(canonical, graph=graph, signature=Signature(*kept))


def _case(network: _Network, root: nn.Module, canonical: CanonicalGraph, method: Method = METHOD) -> Case:
    emitted = lower(canonical, method, optimisations=())
    optimised = lower(canonical, method, optimisations=optimisations(in_place=True))
    return Case(
        **vars(network),
        root=root,
        canonical=emitted.canonical,
        emitted=emitted,
        program=Program(optimised.canonical, optimised),
        weights=weights_of(root, emitted.canonical),
        method=method,
    )


def weights_of(root: nn.Module, canonical: CanonicalGraph) -> dict[str, Tensor]:
    """Placeholder name -> weight or constant, in the order of the graph."""
    weights = {name: tensor_at(root, path).detach() for name, path in canonical.signature.weights.items()}
    weights |= canonical.signature.constants
    names = [node.name for node in canonical.graph.nodes if node.op == "placeholder"][1:]
    return {name: weights[name] for name in names}
