"""Probabilities at the end of a model: what stands in front of them is explained."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx

from agf_fx.frontend.rewrites.editing import insert
from agf_fx.frontend.spellings.signs import take_signs_in
from agf_fx.ir.facts import facts, mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.text import op_name
from agf_fx.ir.vocabulary import SIGNAL_FREE, Family, depends_on_images, family_of, is_parametrised, signals
from agf_fx.notices import warn

aten = torch.ops.aten

_PROBABILITIES = (aten.softmax.int, aten.log_softmax.int, aten.sigmoid.default)
_MOVES = (
    *(aten.reshape.default, aten.permute.default, aten.slice.Tensor, aten.select.int, aten.index_select.default),
    *(aten.roll.default, aten.to.dtype),
)
_INCREASING = (
    *(aten.log.default, aten.log1p.default, aten.log2.default, aten.log10.default, aten.sqrt.default, aten.exp.default),
    *(aten.expm1.default, aten.clamp.default, aten.logit.default),
)
_NAMES = {aten.neg.default: "log_sigmoid", aten.sub.Tensor: "log_softmax"}


class FinalActivationWarning(UserWarning):
    """A model ends in probabilities, and its logits are explained; or they cannot be told, and probabilities are."""


class _End(NamedTuple):
    """The end of a model that is probabilities.

    Attributes:
        steps: calls to take off, last first; the last of them makes probabilities.
        logits: what is explained in their place.
        falling: whether it is to be negated first, as of 1 - sigmoid(x).
    """

    steps: list[fx.Node]
    logits: fx.Node
    falling: bool


def explained_from_logits(canonical: CanonicalGraph) -> CanonicalGraph:
    """Take a softmax, log-softmax or sigmoid off the end of a model; `mark` the new output with its name.

    Probabilities saturate: where one is 1 to the last digit, its gradient is rounding alone, and a sigmoid makes the
    gradients of all classes alike. Data movement may stand behind the activation, and so may functions of single
    entries that leave the order as it is: scales and shifts, logarithms, bounds, numbers in the place of NaN.
    """
    end = _end(canonical.logits)
    if end is None:
        return canonical
    *tail, activation = end.steps
    name = _name_of(activation)
    logits = insert(activation, aten.neg.default, end.logits) if end.falling else end.logits
    activation.replace_all_uses_with(logits)
    for step in reversed(tail):
        step.replace_all_uses_with(step.args[0])
    logs = [op_name(step.target, short=True) for step in tail if step.target is aten.log.default]
    for step in (*tail, activation):
        _erase_unread(step)
    if end.falling:
        take_signs_in(logits)
    mark(canonical.logits, taken_off=" and ".join(dict.fromkeys([*logs, name])))
    return canonical


def warn_of_final(canonical: CanonicalGraph) -> None:
    """Say that the logits in front of a final activation are explained; or that it could not be taken off."""
    taken = facts(canonical.logits).taken_off
    if taken:
        warn(
            f"{canonical.name} ends in {taken}; its logits, in front of it, are explained and returned, because "
            "probabilities saturate. Give the model without it to silence this.",
            FinalActivationWarning,
        )
    elif name := _saturating(canonical.logits):
        warn(
            f"{canonical.name} returns what it computes of probabilities ({name}), such as their mean, and these are "
            "explained. Probabilities saturate: where one is close to 1, what is left of its gradient is small, or "
            "rounding. Return logits, or their mean, to have these explained.",
            FinalActivationWarning,
        )


def _end(output: fx.Node) -> _End | None:
    """What to take off; None where anything but a monotone function of probabilities is at the end."""
    steps: list[fx.Node] = []
    node, falling = output, False
    while node.op == "call_function" and depends_on_images(node) and not is_parametrised(node):
        if node is not output and sum(user.target not in SIGNAL_FREE for user in node.users) > 1 and not _is_pair(node):
            return None
        found = _activation(node)
        if found is not None:
            if not _over_classes(node, output.meta["type"].shape[1], _class_dim(steps, node)):
                return None
            if falling and node.target is not aten.sigmoid.default:
                return None  # 1 - softmax(x) is not the softmax of anything
            falling ^= _falls(node)
            negated = falling and found.target is aten.neg.default
            return _End([*steps, node], found.args[0] if negated else found, falling and not negated)
        slope = _slope(node)
        if slope is None:
            return None
        if slope:
            steps.append(node)
            falling ^= slope < 0
        node = node.args[0]
    return None


def _activation(node: fx.Node) -> fx.Node | None:
    """The logits of which ``node`` is the probabilities, or their logarithms."""
    if node.target in _PROBABILITIES:
        return node.args[0]
    if node.target is aten.neg.default and node.args[0].target is aten.softplus.default:  # log σ(x) = -log(1 + e⁻ˣ)
        x = node.args[0].args[0]
        return x.args[0] if x.target is aten.neg.default else x  # log σ(-x)
    if node.target is aten.sub.Tensor and isinstance(node.args[1], fx.Node):  # x - log Σ exp x
        total = node.args[1].args[0] if node.args[1].target is aten.expand.default else node.args[1]
        return node.args[0] if total.target is aten.logsumexp.default and total.args[0] is node.args[0] else None
    return None


def _falls(activation: fx.Node) -> bool:
    """Whether probabilities fall with what `_activation` says: of log σ(-x) that is x."""
    written = activation.target is aten.neg.default
    return written and activation.args[0].args[0].target is not aten.neg.default


def _is_pair(node: fx.Node) -> bool:
    """Whether ``node`` is read twice by an activation that is written in several calls."""
    return any(_activation(user) is node for user in node.users)


def _slope(node: fx.Node) -> int | None:
    """1 or -1 for a function of single entries that rises or falls, 0 for data movement, None for anything else."""
    if node.target in _MOVES:
        return 0
    if node.target in _INCREASING:
        return 1
    if node.target is aten.neg.default:
        return -1
    if node.target is aten.masked_fill.Scalar:  # of what is no number
        mask = node.args[1]
        made = mask.target in (aten.ne.Tensor, aten.eq.Scalar) and mask.args[0] in (node.args[0], _first(node.args[0]))
        return 1 if made else None
    if node.target in (aten.add.Tensor, aten.sub.Tensor) and isinstance(node.args[1], int | float):
        return 1
    if node.target in (aten.mul.Tensor, aten.div.Tensor) and isinstance(node.args[1], int | float) and node.args[1]:
        return 1 if node.args[1] > 0 else -1
    if node.target is aten.pow.Tensor_Scalar:
        return 1 if node.args[1] > 0 else -1
    return None


def _first(node: fx.Node) -> fx.Node:
    """Before what is filled in one after the other."""
    while node.target is aten.masked_fill.Scalar:
        node = node.args[0]
    return node


def _class_dim(steps: list[fx.Node], activation: fx.Node) -> int | None:
    """The dimension of an activation's values that holds the classes; None where a reshape hides it.

    Args:
        steps: the calls behind it, last first.
        activation: what makes probabilities.
    """
    dim = 1
    for step in steps:
        if step.target is aten.permute.default:
            dim = step.args[1][dim] % activation.meta["type"].rank
        elif step.target is aten.select.int:
            dim += step.args[1] % step.args[0].meta["type"].rank <= dim
        elif step.target is aten.reshape.default:
            return None
    return dim


def _over_classes(activation: fx.Node, classes: int | None, dim: int | None = None) -> bool:
    """Whether it compares as many values as there are classes (None: not known), or each by itself.

    Args:
        activation: what makes probabilities.
        classes: how many there are.
        dim: where they are, if that is known.
    """
    if activation.target in (aten.sigmoid.default, aten.neg.default):
        return True
    dims = activation.args[1]
    if activation.target is aten.sub.Tensor:
        total = activation.args[1]
        dims = (total.args[0] if total.target is aten.expand.default else total).args[1][0]
    kind = activation.meta["type"]
    if dim is not None and dims % kind.rank != dim:
        return False
    return kind.rank == 2 if classes is None else kind.shape[dims] == classes


def _saturating(output: fx.Node) -> str:
    """The name of a softmax, log-softmax or sigmoid over classes behind the last layers; empty where there is none."""
    pending: list[tuple[fx.Node, int | None]] = [(output, output.meta["type"].shape[1])]
    seen = set()
    while pending:
        node, classes = pending.pop()
        if node in seen or node.op != "call_function" or not depends_on_images(node):
            continue
        seen.add(node)
        if is_parametrised(node):  # of probabilities, as superclasses are, but not of features
            probable = [source for source in signals(node) if _activation(source) is not None]
            if any(source.meta["type"].rank == 2 and _over_classes(source, None) for source in probable):
                return _name_of(probable[0])
            continue
        if _activation(node) is not None:
            gates = any(facts(user).gate == node.name for user in node.users)
            dim = 1 if node is output else None
            if not gates and node.meta["type"].rank > 1 and _over_classes(node, classes, dim):
                return _name_of(node)
            continue
        found = signals(node)
        if len(found) > 1 and all(_activation(source) is not None for source in found):  # a product of probabilities
            return _name_of(found[0])
        if node.target in (aten.slice.Tensor, aten.select.int, aten.index_select.default):
            classes = None  # some of them
        if family_of(node) in (Family.MERGE, Family.PASS_THROUGH, Family.DATA_MOVEMENT, Family.AVERAGE):
            pending += [(source, classes) for source in found]
    return ""


def _name_of(activation: fx.Node) -> str:
    return _NAMES.get(activation.target) or op_name(activation.target, short=True)


def _erase_unread(node: fx.Node) -> None:
    """Erase a call that nobody reads any more, and what it alone has read."""
    if node.users or node.op != "call_function":
        return
    sources = node.all_input_nodes
    node.graph.erase_node(node)
    for source in sources:
        _erase_unread(source)
