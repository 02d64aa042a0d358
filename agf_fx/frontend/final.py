"""Probabilities at the end of a model: what stands in front of them is explained."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.ir.facts import facts, mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.text import op_name
from agf_fx.ir.vocabulary import Family, depends_on_images, family_of, is_parametrised
from agf_fx.notices import warn

aten = torch.ops.aten

_PROBABILITIES = (aten.softmax.int, aten.log_softmax.int, aten.sigmoid.default)


class FinalActivationWarning(UserWarning):
    """A model ends in probabilities, and its logits are explained."""


def explained_from_logits(canonical: CanonicalGraph) -> CanonicalGraph:
    """Take a softmax, log-softmax or sigmoid off the end of a model; `mark` the new output with its name.

    Probabilities saturate: where one is 1 to the last digit, its gradient is rounding alone, and a sigmoid makes the
    gradients of all classes alike. Data movement may stand behind the activation, and a logarithm behind a softmax.
    """
    taken: list[str] = []
    for node in _finals(canonical.logits):
        taken.append(op_name(node.target, short=True))
        node.replace_all_uses_with(node.args[0])
        canonical.graph.erase_node(node)
    if taken:
        mark(canonical.logits, taken_off=" and ".join(dict.fromkeys(taken)))
    return canonical


def warn_of_final(canonical: CanonicalGraph) -> None:
    """Say that the logits in front of a final activation are explained."""
    taken = facts(canonical.logits).taken_off
    if taken:
        warn(
            f"{canonical.name} ends in {taken}; its logits, in front of it, are explained and returned, because "
            "probabilities saturate. Give the model without it to silence this.",
            FinalActivationWarning,
        )


def _finals(output: fx.Node) -> list[fx.Node]:
    """The activations to take off, last first; none where anything but data movement stands behind them."""
    found: list[fx.Node] = []
    node = output
    while node.op == "call_function" and depends_on_images(node):
        if is_parametrised(node):
            break
        alone = node is output or len(node.users) == 1
        if not alone:
            break
        if node.target in _PROBABILITIES:
            if _over_classes(node, output):
                found.append(node)
            break
        if node.target is aten.log.default:
            before = node.args[0]
            if before.target not in _PROBABILITIES[::2] or len(before.users) > 1:
                break
            found.append(node)
        elif family_of(node) is not Family.DATA_MOVEMENT or not isinstance(node.args[0], fx.Node):
            break
        node = node.args[0]
    return found if found and found[-1].target in _PROBABILITIES else []


def _over_classes(activation: fx.Node, output: fx.Node) -> bool:
    """Whether it compares as many values as there are classes, or each by itself."""
    if activation.target is aten.sigmoid.default:
        return True
    return activation.meta["type"].shape[activation.args[1]] == output.meta["type"].shape[1]
