"""The gradient stream: the vector-Jacobian product of every operation of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from operator import getitem
from typing import Any

import torch

from agf_fx.errors import VerifyError
from agf_fx.ir.captured import CapturedVjp, tensor_arguments
from agf_fx.rules.adjoints.arithmetic import ARITHMETIC
from agf_fx.rules.adjoints.elementwise import ELEMENTWISE
from agf_fx.rules.adjoints.movement import MOVEMENT
from agf_fx.rules.adjoints.normalisation import NORMALISATION
from agf_fx.rules.adjoints.pooling import POOLING
from agf_fx.rules.linear_maps import LINEAR_LAYERS, adjoint
from agf_fx.rules.merging import Merge, total
from agf_fx.rules.numerics import Value
from agf_fx.rules.rule import Promise, Rule
from agf_fx.rules.site import Site, Vjp


def vjp(site: Site, g: Value) -> tuple[Value, ...]:
    """The gradients at the operands of ``site`` from the gradient ``g`` at its output.

    Raises:
        VerifyError: a registered vjp returns the wrong number of gradients.
    """
    captured = site.facts.captured_vjp
    gradients = captured_vjp(site, g, captured) if captured else VJPS[site.node.target](site, g)
    if len(gradients) != len(site.operands):
        raise VerifyError(
            f"the vjp of {site.node.target} returned {len(gradients)} gradients for {len(site.operands)} operands; "
            "return one per operand, None where there is none."
        )
    return gradients


chain_rule = Rule(vjp, "chain_rule", "∇", "∇x = fᵀ∇y  (eq. 5)", source="the chain rule", promise=Promise.NOTHING)


def _guided(site: Site, g: Value) -> tuple[Value, ...]:
    return vjp(site, torch.clamp_min(g, 0))


guided = Rule(
    _guided, "guided", "∇", "∇x = [x > 0] ⊙ max(∇y, 0)", source="Springenberg et al. 2015", promise=Promise.NOTHING
)


def _deconvolved(site: Site, g: Value) -> tuple[Value, ...]:
    return (torch.clamp_min(g, 0),)


deconvolved = Rule(
    _deconvolved, "deconvolved", "∇", "∇x = max(∇y, 0)", source="Zeiler and Fergus 2014", promise=Promise.NOTHING
)


def smoothed(beta: float) -> Rule:
    """ReLUs with the gradient of softplus, log(1 + exp(βx)) / β (Dombrowski et al. 2019).

    Args:
        beta: β > 0; the larger, the closer to the step of the ReLU itself.
    """

    def smoothed_(site: Site, g: Value) -> tuple[Value, ...]:
        return (g * torch.sigmoid(site.x * beta),)

    equation, source = "∇x = σ(βx) ⊙ ∇y", "Dombrowski et al. 2019"
    return Rule(smoothed_, "smoothed", "∇", equation, source, promise=Promise.NOTHING, parameters=(("β", beta),))


accumulation = Merge(total.function, "chain_rule", chain_rule.symbol, chain_rule.equation)
"""Gradients of several readers add."""


def captured_vjp(site: Site, g: Value, captured: CapturedVjp) -> tuple[Value, ...]:
    """PyTorch's own derivative, for an operation that is not in the vocabulary; 0 at constants."""
    found = captured(tensor_arguments(site.node, site.args, site.kwargs), g, site.targets)
    pairs = zip(found, site.operands, strict=True)
    return tuple(torch.zeros_like(operand) if gradient is None else gradient for gradient, operand in pairs)


VJPS: dict[Callable[..., Any], Vjp] = {
    **dict.fromkeys(LINEAR_LAYERS, lambda site, g: (adjoint(site, g, site.weight),)),
    **ELEMENTWISE,
    **ARITHMETIC,
    **NORMALISATION,
    **POOLING,
    **MOVEMENT,
    getitem: lambda site, g: (g,),
}
