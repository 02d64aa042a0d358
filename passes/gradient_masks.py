"""Masks on gradients that change nothing, because the gradient is zero wherever the relevance is."""

from __future__ import annotations

import torch

from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.ir.rewriting import is_call, nonzero_of, substitute
from agf_fx.ir.vocabulary import Family, family_of

aten = torch.ops.aten


def drop_gradient_masks(explanation: ExplanationGraph) -> ExplanationGraph:
    """g ⊙ [Φ ≠ 0] -> g at the output of a layer whose only readers, through pass-through operations, are ReLUs.

    Proof. With y = ReLU(z): where y = 0, both g_z and Φ_z = Φ_y ⊙ y/(y + ε) are 0, so the mask changes nothing. Where
    y > 0, Φ_z = 0 needs Φ_y = 0. Every rule behind y that hands y no relevance at an entry with y > 0 hands it no
    gradient either: fᵀ puts both into the same entries. What remains are entries where a sum of relevances cancels to
    the last bit, a set of measure zero in the weights, at which the published code would drop a gradient by accident.

    Kept where no ReLU stands behind: a bias-free convolution can be exactly 0 on a blank area, and its relevance with
    it, while the gradient is not (measured: 0.81 of the map's maximum).
    """
    rectified = _rectified(explanation.canonical)
    for node in list(explanation.graph.nodes):
        if is_call(node, aten.mul.Tensor):
            g, mask = node.args
            relevance = nonzero_of(mask)
            if relevance is None or g.meta.get("stream") != "gradient":
                continue
            same = set(g.meta.get("stream_of", ())) & set(relevance.meta.get("stream_of", ()))
            if same & rectified:
                substitute(node, g)
    return explanation


def _rectified(canonical: CanonicalGraph) -> set[str]:
    """Names of canonical calls that are read by ReLUs only, pass-through operations in between."""
    found: set[str] = set()
    for node in reversed(canonical.calls):
        if node.users and all(
            user.target is aten.relu.default
            or (user.op == "call_function" and family_of(user) is Family.PASS_THROUGH and user.name in found)
            for user in node.users
        ):
            found.add(node.name)
    return found
