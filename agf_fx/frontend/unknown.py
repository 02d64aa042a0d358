"""Operations without a rule, explained by their own derivative: PyTorch's vector-Jacobian product as a graph.

It is captured once per call signature and tried on random numbers against autograd before it is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from agf_fx.frontend.calls import Call, Unfit
from agf_fx.frontend.derivatives import captured_vjp
from agf_fx.frontend.trials import Trial
from agf_fx.ir.captured import CapturedVjp
from agf_fx.ir.facts import facts, mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.refusal import unsupported
from agf_fx.ir.vocabulary import VOCABULARY
from agf_fx.notices import warn


class Teacher:
    """Gives the unknown operations of one canonical graph a captured vector-Jacobian product."""

    def __init__(self, canonical: CanonicalGraph, model: nn.Module, device: torch.device) -> None:
        self._trial = Trial(canonical, model, device)
        self._device = device
        self._known: dict[str, CapturedVjp] = {}

    def teach(self, canonical: CanonicalGraph, node: fx.Node) -> None:
        """Mark ``node`` with its captured product, if it is an operation on the images that has no rule.

        Raises:
            UnsupportedOpError: the operation has no derivative, or treats samples or targets in a way that cannot be
                captured.
        """
        if not node.meta["depends_on_images"] or node.target in VOCABULARY:
            return
        try:
            call = Call.of(node)
            key = call.signature()
            if key not in self._known:
                self._known[key] = captured_vjp(call, self._device)
            self._trial.check(call, self._known[key])
        except Unfit as reason:
            raise unsupported(
                canonical,
                node,
                f'{node.target} cannot be explained with unknown_ops="gradient": {reason}',
                tried=True,
            ) from reason
        mark(node, captured_vjp=self._known[key])


def warn_of_captured(canonical: CanonicalGraph) -> None:
    """Warn once for every operation that is explained by its captured product, and say where it stands."""
    places: dict[Any, list[str]] = {}
    for node in canonical.calls:
        if facts(node).captured_vjp:
            places.setdefault(node.target, []).append(repr(node.meta["module"]) if node.meta["module"] else "forward()")
    for op, modules in places.items():
        where = ", ".join(dict.fromkeys(modules))
        warn(
            f"{op} has no relevance rule and is explained by its gradient, x ⊙ f'(Φ / f(x)) (in {where} of "
            f"{canonical.name}). Relevance is conserved there only where f(a·x) = a·f(x). To choose a rule, see "
            "agf_fx.register_rule.",
            UserWarning,
        )
