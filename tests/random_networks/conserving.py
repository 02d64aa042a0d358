"""Whether every call of a network conserves relevance as its rule promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from agf_fx.emit import Streams
from agf_fx.inspect.conservation import Flow, conservation
from agf_fx.ir.vocabulary import Family, depends_on_images, family_of, operands
from agf_fx.rules import numerics
from agf_fx.rules.rule import Promise
from random_networks.capturing import Case
from random_networks.judging import require

TOLERANCE = 1e-10  # of the sum of absolute relevance at the call and at its operands
EXEMPT = (Promise.STARTS, Promise.NOTHING, Promise.MASKS, Promise.BOTH_SIGNS)


def relevance_is_conserved(case: Case) -> None:
    """In exact division: what a call hands on is what it has, and where readers of a value meet, nothing is lost."""
    for image, target in zip(case.images.split(1), case.target.split(1), strict=True):
        _one_is_conserved(replace(case, images=image, target=target))


def _one_is_conserved(case: Case) -> None:
    """The same for a single image."""
    method = case.method.divided(numerics.EXACT)
    report = conservation(case.canonical, method, case.images, case.target, case.weights)
    streams, values = case.interpret(method), case.values()
    nodes = {node.name: node for node in case.canonical.calls}
    for flow in report.flows:
        require(flow.promise != "unknown", f"nobody knows what the rule {flow.rule} of %{flow.node} promises")
        if flow.promise not in EXEMPT:
            _Call(flow, nodes[flow.node], streams, values).check()


@dataclass(frozen=True)
class _Call:
    flow: Flow
    node: fx.Node
    streams: Streams
    values: Mapping[str, Any]

    def check(self) -> None:
        if self.flow.promise == "conserves but for constants":
            expected = _sums(self.relevance * self.moved)
        else:
            expected = self.flow.relevance
        # Where a value is zero throughout, or only zeros are read, its relevance has nowhere to go.
        self._equal("hands on", self.flow.handed_on, expected, self._alive(self.node, *self.given) & self._reads)
        arriving = self.scale + self._arriving
        self._equal(
            "keeps of its readers' relevance", self.flow.relevance, self.flow.received, self._alive(self.node), arriving
        )

    def _equal(self, does: str, found: Tensor, expected: Tensor, alive: Tensor, scale: Tensor | None = None) -> None:
        scale = self.scale if scale is None else scale
        excess = ((found - expected).abs() / scale.clamp(min=1e-300)).where(alive, 0)
        require(
            bool((excess <= TOLERANCE).all()),
            f"{self.flow.rule} of %{self.flow.node} = {self.flow.op} promises: {self.flow.promise}; and {does} "
            f"{found.tolist()} of {expected.tolist()}, {excess.max():.2g} of the absolute sum is wrong",
        )

    @cached_property
    def relevance(self) -> Tensor:
        return self.streams.relevance[self.flow.node]

    @cached_property
    def given(self) -> dict[fx.Node, Tensor]:
        """The operands that get relevance, and how much of it by absolute value, (1, K)."""
        found: dict[fx.Node, Tensor] = {}
        relevances = self.streams.handed["relevance"][self.flow.node]
        for operand, phi in zip(operands(self.node), relevances, strict=True):
            if depends_on_images(operand) and phi is not None:
                found[operand] = found.get(operand, 0) + _sums(phi.abs())
        return found

    @cached_property
    def scale(self) -> Tensor:
        return _sums(self.relevance.abs()) + sum(self.given.values())

    @property
    def _arriving(self) -> Tensor:
        """The absolute relevance that the readers hand back, (1, K)."""
        found = torch.zeros_like(self.scale)
        for reader in self.node.users:
            handed = self.streams.handed["relevance"].get(reader.name)
            for operand, phi in zip(operands(reader), handed, strict=True) if handed else ():
                if operand is self.node and phi is not None:
                    found = found + _sums(phi.abs())
        return found

    @cached_property
    def moved(self) -> Tensor:
        """1 where the output of a data movement is an entry of a signal, 0 where it is a constant."""
        args = fx.map_arg(
            self.node.args,
            lambda node: (
                torch.full_like(self.values[node.name], torch.nan)
                if depends_on_images(node)
                else self.values[node.name]
            ),
        )
        return self.node.target(*args, **self.node.kwargs).isnan().to(self.relevance.dtype)

    @property
    def _reads(self) -> Tensor:
        """Whether a convolution reads entries that are not zero, with weights that are not, (1, 1)."""
        if family_of(self.node) is not Family.CONVOLUTION:
            return torch.ones(1, 1, dtype=torch.bool)
        x, weight, _, *geometry = fx.map_arg(self.node.args, lambda node: self.values[node.name])
        return _sums(self.node.target(x.abs(), weight.abs(), None, *geometry)[None]) > 0

    def _alive(self, *nodes: fx.Node) -> Tensor:
        """Whether none of these values is zero throughout, (1, 1)."""
        return torch.stack([_sums(self._value(node).abs()[None]) > 0 for node in nodes]).all(0)

    def _value(self, node: fx.Node) -> Tensor:
        value = self.values[node.name]
        return value[0] if isinstance(value, tuple) else value


def _sums(values: Tensor) -> Tensor:
    """Values of one image, (K, ...), summed per target: (1, K)."""
    return values.flatten(1).sum(1)[None]
