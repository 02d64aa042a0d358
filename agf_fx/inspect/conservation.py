"""Where relevance goes: per call of the model, what arrives, what is handed on, and what the rule promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, fx

from agf_fx.emit import Streams, interpret
from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.text import op_name
from agf_fx.ir.vocabulary import depends_on_images, operands
from agf_fx.methods.method import Method
from agf_fx.rules.site import RELEVANCE


@dataclass(frozen=True)
class Flow:
    """Relevance at one call, summed over all entries of its output, per image and target: shape (N, K) each.

    Attributes:
        node: name of the call in the canonical graph.
        module: dotted path of the module that makes it.
        op: name of the operation.
        rule: name of the rule.
        promise: what the rule promises of the sum.
        received: what the readers of the output hand back.
        relevance: what remains of that where several readers meet.
        handed_on: what the rule hands to the operands.
        absolute: the absolute ``relevance``, beside which losses by rounding are small.
    """

    node: str
    module: str
    op: str
    rule: str
    promise: str
    received: Tensor
    relevance: Tensor
    handed_on: Tensor
    absolute: Tensor

    @property
    def change(self) -> Tensor:
        """What the call adds to the sum, (N, K); negative where relevance is lost."""
        return self.handed_on - self.received


@dataclass(frozen=True, repr=False)
class ConservationReport:
    """The sums of relevance from the heads to the images.

    Attributes:
        initial: relevance at the heads' inputs, (N, K).
        final: relevance at the images, (N, K).
        flows: one for every call that has relevance, from the heads to the images. The heads come first: what they
            receive is their own initial relevance.
    """

    initial: Tensor
    final: Tensor
    flows: tuple[Flow, ...]

    @property
    def ratio(self) -> Tensor:
        """final / initial, (N, K): 1 where relevance is conserved."""
        return self.final / self.initial

    def largest_changes(self, count: int = 10) -> list[Flow]:
        """The calls that change the sum most, for any image and target."""
        return sorted(self.flows, key=lambda flow: -flow.change.abs().max().item())[:count]

    def __repr__(self) -> str:
        ratio = self.ratio
        span = f"{float(ratio.min()):.4g} to {float(ratio.max()):.4g}"
        return f"ConservationReport({len(self.flows)} calls, final / initial relevance {span}; print it to read it)"

    def __str__(self) -> str:
        lines = [
            f"relevance at heads {_brief(self.initial)}, at the images {_brief(self.final)} (first image and target)",
            f"{'received':>12} {'handed on':>12} {'change':>10}  promise                      rule and call",
        ]
        for flow in self.flows:
            sums = f"{_brief(flow.received):>12} {_brief(flow.handed_on):>12} {flow.change.flatten()[0]:>+10.1e}"
            lines.append(f"{sums}  {flow.promise:<27}  {flow.rule} of %{flow.node} = {flow.op}")
        return "\n".join(lines)


def _brief(sums: Tensor) -> str:
    return f"{sums.flatten()[0].item():.6g}"


def conservation(
    canonical: CanonicalGraph, method: Method, images: Tensor, target: Tensor, inputs: Mapping[str, Tensor]
) -> ConservationReport:
    """Explain ``images`` rule by rule, without the optimisations of the compiled graph, and sum the relevance up.

    Every image is explained by itself: where tokens or windows are counted with the images, shapes do not tell whose
    entry is which.

    Args:
        canonical: an analysed canonical graph.
        method: a method that has relevance.
        images: (N, C, ...).
        target: (N, K) int64; a class, or -r for the class of rank r.
        inputs: placeholder name -> weight or constant.
    """
    pairs = zip(images.split(1), target.split(1), strict=True)
    reports = [_of_one(canonical, method, image, codes, inputs) for image, codes in pairs]
    return ConservationReport(
        initial=torch.cat([report.initial for report in reports]),
        final=torch.cat([report.final for report in reports]),
        flows=tuple(_together(flows) for flows in zip(*(report.flows for report in reports), strict=True)),
    )


def _together(flows: tuple[Flow, ...]) -> Flow:
    """The flows of several images at one call."""
    names = [field.name for field in fields(Flow) if isinstance(getattr(flows[0], field.name), Tensor)]
    return replace(flows[0], **{name: torch.cat([getattr(flow, name) for flow in flows]) for name in names})


def _of_one(
    canonical: CanonicalGraph, method: Method, image: Tensor, target: Tensor, inputs: Mapping[str, Tensor]
) -> ConservationReport:
    """The report of one image, (1, C, ...)."""
    with torch.no_grad():
        streams = interpret(canonical, method, image, target, inputs)
    return summed(canonical, streams, target, image.dtype)


def summed(canonical: CanonicalGraph, streams: Streams, target: Tensor, dtype: torch.dtype) -> ConservationReport:
    """The sums of a walk over one image whose relevances are known.

    Args:
        canonical: the graph that was walked over.
        streams: what the walk found.
        target: (1, K) int64.
        dtype: of the image.
    """
    received: dict[str, Tensor] = {}
    flows = []
    initial = torch.zeros_like(target, dtype=dtype)
    for node in reversed(canonical.calls):
        given = handed_by(node, streams.handed[RELEVANCE])
        if not given:
            continue
        for operand, phi in given:
            received[operand.name] = received.get(operand.name, 0) + _total(phi)
        handed_on = sum(_total(phi) for _, phi in given)
        rule, own = streams.rules[RELEVANCE][node.name], streams.relevance.get(node.name)
        captured = facts(node).captured_vjp is not None
        if own is None:
            initial = initial + handed_on
        elif node is canonical.logits:  # where the method's relevance starts
            received[node.name] = initial = _total(own)
        flows.append(
            Flow(
                node=node.name,
                module=node.meta["module"],
                op=op_name(node.target),
                rule=str(rule),
                promise="none: explained by its gradient" if captured else rule.promised,
                received=handed_on if own is None else received[node.name],
                relevance=handed_on if own is None else _total(own),
                handed_on=handed_on,
                absolute=sum(_total(phi.abs()) for _, phi in given) if own is None else _total(own.abs()),
            )
        )
    return ConservationReport(initial, _total(streams.relevance[canonical.images.name]), tuple(flows))


def handed_by(node: fx.Node, handed: Mapping[str, Sequence[Tensor | None]]) -> list[tuple[fx.Node, Tensor]]:
    """The operands computed from the images that a call hands something to, and what.

    Args:
        node: the call.
        handed: name of a call -> what it hands to its operands, in order, in one stream.
    """
    messages = handed.get(node.name)
    if messages is None:
        return []
    return [
        (operand, phi)
        for operand, phi in zip(operands(node), messages, strict=True)
        if depends_on_images(operand) and phi is not None
    ]


def _total(phi: Tensor) -> Tensor:
    """Relevance of one image, (K, ...), summed per target: (1, K)."""
    return phi.flatten(1).sum(1)[None]
