"""AttnLRP: layer-wise relevance propagation through attention, softmax and normalisations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from agf_fx.ir.facts import facts
from agf_fx.ir.vocabulary import Family, family_of, operands, signals
from agf_fx.methods.lrp import LRPOptions, between_layers, linear_layer, relevance_method
from agf_fx.methods.method import Method
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.table import RuleTable, Where, fact, family, op, registered
from agf_fx.options import require_number
from agf_fx.rules import lrp, propagation
from agf_fx.rules.norms import NORMS, constant_scale

aten = torch.ops.aten


@dataclass(frozen=True)
class AttnLRPOptions(LRPOptions):
    """Options of AttnLRP.

    Attributes:
        epsilon: the stabiliser ε > 0 of denominators, which has their sign.
        bias: whether biases and other constants that are added, such as embeddings of positions, take their part of
            the relevance, as they do in the definition.
        gamma: of LRP-γ at convolutions and linear layers, 0 or more, as the paper recommends for vision transformers;
            None for LRP-ε there.

    Raises:
        OptionsError: a value has no meaning.
    """

    gamma: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma is not None:
            require_number("gamma", self.gamma, least=0)


def _gate_is_attention(node: fx.Node) -> bool:
    """Whether the gate of a product is a softmax, perhaps moved or scaled."""
    value = next((operand for operand in operands(node) if getattr(operand, "name", "") == facts(node).gate), None)
    while isinstance(value, fx.Node) and value.op == "call_function" and value.target is not aten.softmax.int:
        sources = signals(value) if family_of(value) in (Family.PASS_THROUGH, Family.DATA_MOVEMENT) else []
        value = sources[0] if len(sources) == 1 else None
    return isinstance(value, fx.Node) and value.op == "call_function"


_attention_gate = Where(_gate_is_attention, "gate made by softmax")
_sums = family(Family.MERGE)
_shifts = op(aten.add.Tensor, aten.sub.Tensor)


def attnlrp_table(options: AttnLRPOptions) -> RuleTable:
    """The rules of AttnLRP, for networks with and without attention.

    What scales a signal, a gate or a denominator, is a constant, so that all relevance is the signal's; products of
    two signals and of attention weights with values halve it.
    """
    epsilon, bias = options.epsilon, options.bias
    layers = lrp.epsilon_rule(epsilon, bias=bias)
    if options.gamma is not None:
        layers = lrp.gamma_rule(options.gamma, epsilon, bias=bias)
    share, division = lrp.norm(epsilon), lrp.signed(epsilon)
    affine = [(op(aten.batch_norm.default), share), (_shifts, share)] if bias else [(_sums, share)]
    special = [
        (linear_layer, layers),
        (op(*NORMS), constant_scale(epsilon, bias=bias)),
        *affine,
        (fact("gate") & op(aten.div.Tensor), propagation.gated),  # halves of a quotient would be Φ/2 and -Φ/2
        (fact("gate") & ~_attention_gate, propagation.gated),
        (family(Family.PRODUCT), propagation.bilinear.divided(lrp.signed(epsilon / 2))),  # Φ / (2ab ± ε)
        (family(Family.JOINT), propagation.by_influence.divided(division)),
    ]
    return registered() + RuleTable.of(special) + between_layers(share)


def attnlrp(options: AttnLRPOptions) -> Method:
    """AttnLRP (Achtibat et al. 2024)."""
    return relevance_method("attnlrp", attnlrp_table(options))


ENTRIES = (
    Entry(
        name="attnlrp",
        title="layer-wise relevance propagation through attention: ε or γ at layers, halves at products of signals",
        citation="Achtibat, Hatefi, Dreyer, Jain, Wiegand, Lapuschkin and Samek, ICML 2024",
        properties=Properties(gradients=False, attribution=True, class_specific=False, reaches_input=True),
        make=attnlrp,
        options=AttnLRPOptions,
    ),
)
