"""Masks on gradients that change nothing, because the gradient is zero wherever the relevance is."""

from __future__ import annotations

import operator

import torch
from torch import fx

from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.ir.rewriting import is_call, nonzero_of, substitute
from agf_fx.ir.vocabulary import BUILT_IN, SIGNAL_FREE, Family, depends_on_images, family_of, operands

aten = torch.ops.aten

# Functions of every entry by itself. Others that pass relevance unchanged, as norms by the statistics of a sample do,
# hand a gradient to entries without relevance.
_ENTRYWISE = {
    aten.add.Tensor,
    aten.batch_norm.default,
    aten.clamp.default,
    aten.div.Tensor,
    aten.elu.default,
    aten.gelu.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.mish.default,
    aten.mul.Tensor,
    aten.neg.default,
    aten.prelu.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten.softplus.default,
    aten.sub.Tensor,
    aten.tanh.default,
    operator.getitem,
}


def drop_gradient_masks(explanation: ExplanationGraph) -> ExplanationGraph:
    """g ⊙ [Φ ≠ 0] -> g at the output z of a layer that ReLUs alone read, if their outputs are faithful.

    A value v is faithful if at every entry with v ≠ 0 and no relevance there is no gradient either. Proof that this is
    enough: with y = ReLU(z), where y = 0, both g_z and Φ_z = Φ_y ⊙ y/(y + ε) are 0, so the mask changes nothing. Where
    y > 0, Φ_z = 0 needs Φ_y = 0, and then g_z = g_y = 0. A ReLU6 does the same. Functions of every entry may stand
    before the ReLU, where nobody else reads z: they leave the relevance as it is. Several readers must be ReLUs
    themselves, as a fan-out has no relevance at z = 0.

    A value is faithful if all its readers are, at every place where they read it, and so are their outputs:

    - The head starts with Φ = x ⊙ g. Nothing is asked of what it makes.
    - Convolutions and linear layers, poolings, data movement, sums and products: relevance at an entry x_i ≠ 0 is 0
      only if that of all outputs y_j that depend on x_i is. These y_j are not 0, so their gradients are 0, and with
      them the gradient of x_i, which is made of no others.
    - Functions of every entry: where f(x) = 0 at a range of x ≠ 0, f'(x) = 0.

    Which rules are faithful, their table says (``ExplanationGraph.faithful``): nothing is dropped behind others, such
    as z⁺, under which an entry that only inhibits has a gradient and no relevance.

    Not faithful are a gate and attention weights that are taken for constants, which get gradients and no relevance;
    norms by the statistics of a sample and softmax, which spread gradients over all entries; and operations with a
    registered or captured rule, of which nothing is known.

    What remains are entries where a sum cancels to the last bit, a set of measure zero in the weights, at which the
    published code would drop a gradient by accident.

    Masks are kept where no ReLU stands behind: a bias-free convolution can be exactly 0 on a blank area, and its
    relevance with it, while the gradient is not (measured: 0.81 of the map's maximum).
    """
    rectified = _rectified(explanation.canonical, explanation.faithful)
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


def _rectified(canonical: CanonicalGraph, rules: frozenset[str]) -> set[str]:
    """Names of values that ReLUs with faithful outputs read, or else one function of every entry with such readers."""
    faithful: set[fx.Node] = set()
    found: set[str] = set()
    for node in reversed(canonical.calls):
        readers = [reader for reader in node.users if reader.target not in SIGNAL_FREE]
        if not depends_on_images(node) or not readers:
            continue
        if all(_is_faithful(reader, node, faithful, rules) for reader in readers):
            faithful.add(node)
        closed = all(_is_rectifier(reader) and reader in faithful for reader in readers)
        if closed or (len(readers) == 1 and readers[0].name in found and _is_entrywise(readers[0])):
            found.add(node.name)
    return found


def _is_rectifier(reader: fx.Node) -> bool:
    """ReLU and its likes: from 0 down, value and derivative are 0."""
    return reader.target is aten.relu.default or (reader.target is aten.hardtanh.default and reader.args[1] == 0)


def _is_faithful(reader: fx.Node, value: fx.Node, faithful: set[fx.Node], rules: frozenset[str]) -> bool:
    """Whether ``reader`` hands relevance wherever it hands a gradient to entries of ``value`` that are not 0."""
    if reader.name not in rules or reader.target not in BUILT_IN or facts(reader).captured_vjp:
        return False
    if facts(reader).head:
        return True
    ignored = {facts(reader).gate, facts(reader).attention}
    if reader not in faithful or value.name in ignored or value not in operands(reader):
        return False
    return family_of(reader) is not Family.PASS_THROUGH or _is_entrywise(reader)


def _is_entrywise(reader: fx.Node) -> bool:
    return family_of(reader) is Family.PASS_THROUGH and reader.target in _ENTRYWISE
