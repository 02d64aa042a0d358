"""How much of the relevance arrives at the images, and where it is lost."""

from __future__ import annotations

from typing import Any

from coverage_report.case import EXACT, TARGET, Case

from agf_fx.inspect.conservation import Flow
from agf_fx.inspect.conservation import conservation as report_of


def conservation(case: Case) -> dict[str, Any]:
    """How relevance is conserved in exact division.

    Returns:
        ``arriving``: relevance at the images over initial relevance, for the image and target where that is farthest
        from 1; ``loss``: the largest change of the sum at one call, over the sum of absolute relevance there, and
        ``lost_at`` its name, ``lost_by`` its operation.
    """
    report = report_of(case.canonical, EXACT, case.images, TARGET, case.inputs)
    arriving = report.ratio.flatten()
    worst = max(report.flows, key=loss)
    return {
        "arriving": float(arriving[(arriving - 1).abs().argmax()]),
        "loss": loss(worst),
        "lost_at": worst.node,
        "lost_by": worst.op,
    }


def loss(flow: Flow) -> float:
    """The change of the sum at a call over the absolute relevance there, of the worst image and target."""
    return float((flow.change.abs() / flow.absolute.clamp(min=1e-300)).max())
