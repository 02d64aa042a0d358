"""How much of the relevance arrives at the images, and where it is lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from coverage_report.case import EXACT, Case
from torch import Tensor, fx

from agf_fx.emit import Streams
from agf_fx.ir.facts import facts
from agf_fx.ir.text import op_name
from agf_fx.ir.vocabulary import depends_on_images, operands


@dataclass(frozen=True)
class Passage:
    """Relevance in passing through one node; sums (targets,), over all images.

    Attributes:
        received: what the readers of the node hand it.
        handed: what the node hands its own operands.
    """

    received: list[Tensor] = field(default_factory=list)
    handed: list[Tensor] = field(default_factory=list)


def conservation(case: Case) -> dict[str, Any]:
    """How relevance is conserved in exact division.

    Returns:
        ``arriving``: relevance at the images over initial relevance, for the image and target where that is farthest
        from 1; ``loss``: the largest change of the sum at one node, over the sum of absolute relevance there, and
        ``lost_at`` its name, ``lost_by`` its operation.
    """
    streams = case.interpret(EXACT)
    arriving = (at_images(case, streams) / at_heads(case, streams)).flatten()
    loss, node = max(losses(case, streams), key=lambda found: found[0])
    return {
        "arriving": float(arriving[(arriving - 1).abs().argmax()]),
        "loss": loss,
        "lost_at": node.name,
        "lost_by": op_name(node.target) if node.op == "call_function" else "images",
    }


def at_images(case: Case, streams: Streams) -> Tensor:
    """The sum of relevance of every target and image, (K, N)."""
    return streams.relevance[case.canonical.images.name].flatten(2).sum(2)


def at_heads(case: Case, streams: Streams) -> Tensor:
    """The sum of relevance with which every target and image starts, (K, N)."""
    heads = [node for node in case.canonical.calls if facts(node).head]
    return sum(streams.handed[head.name][1][0].flatten(2).sum(2) for head in heads)


def losses(case: Case, streams: Streams) -> Iterator[tuple[float, fx.Node]]:
    """For every node with relevance, the change of its sum over the sum of absolute relevance, of the worst target."""
    for node, passage in passages(case, streams).items():
        phi = streams.relevance.get(node.name)
        if phi is not None and bool(phi.any()):
            leaving = sum(passage.handed) if node.op == "call_function" else phi.flatten(1).sum(1)
            scale = phi.abs().flatten(1).sum(1)
            yield float(((leaving - sum(passage.received)).abs() / scale).max()), node


def passages(case: Case, streams: Streams) -> dict[fx.Node, Passage]:
    """What every node receives and hands on; what is handed to a constant is lost."""
    found: dict[fx.Node, Passage] = defaultdict(Passage)
    for node in (node for node in case.canonical.calls if node.name in streams.handed):
        _, relevances = streams.handed[node.name]
        for operand, phi in zip(operands(node), relevances, strict=True):
            if phi is not None and depends_on_images(operand):
                total = phi.flatten(1).sum(1)
                found[node].handed.append(total)
                found[operand].received.append(total)
    return found
