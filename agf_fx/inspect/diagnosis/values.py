"""Maps whose numbers are wrong: not finite, far from float64, relevance that grows or is not conserved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from agf_fx.inspect.conservation import Flow, handed_by
from agf_fx.inspect.diagnosis.case import Case, beginning
from agf_fx.inspect.diagnosis.report import Check, Place, found
from agf_fx.inspect.precision import TRUSTED, relative_difference
from agf_fx.ir.text import op_name
from agf_fx.ir.vocabulary import Family, family_of
from agf_fx.rules.rule import Promise
from agf_fx.rules.site import RELEVANCE

aten = torch.ops.aten

VISIBLE = 0.02
"""Relative difference from float64 that is seen: two to three of the 255 shades of a scale centred at 0."""
GROWTH = 1e4
"""Times by which the sum of absolute relevance grows on the way to the pixels."""
BROKEN = 0.2
"""Share of the absolute relevance around a call by which it breaks what its rule promises of the sum."""

_SCALE = "choose a smaller epsilon, where the method has one, or bring images and weights to a usual scale"
_EDGES: dict[Any, tuple[int, Callable[[Tensor], Tensor], str]] = {
    aten.div.Tensor: (1, lambda x: x == 0, "divides by 0"),
    aten.reciprocal.default: (0, lambda x: x == 0, "divides by 0"),
    aten.rsqrt.default: (0, lambda x: x <= 0, "takes the root of what is not above 0"),
    aten.sqrt.default: (0, lambda x: x < 0, "takes the root of what is below 0"),
    aten.log.default: (0, lambda x: x <= 0, "takes the logarithm of what is not above 0"),
    aten.log1p.default: (0, lambda x: x <= -1, "takes the logarithm of what is not above 0"),
    aten.pow.Tensor_Scalar: (0, lambda x: x <= 0, "takes a power of what is not above 0"),
}
"""Where functions have no finite value: operation -> the operand, where it is on the edge, and what it does there."""
_STEEP = (aten.sqrt.default, aten.pow.Tensor_Scalar)
"""Functions that may have a value but no finite derivative at 0."""
_ON_EDGE = "an input may stand on the edge, as where an even ground makes maxima ties, and rounding moves it over"
_VALUES = "its values are apart"
_PROMISING = ("conserves", "shifts to conserve")
_NOT_KEPT = ("conserves but for constants", "conserves but for biases", "conserves where contributions")


def finite(case: Case) -> Check:
    """NaN or infinite entries, and the first value or message that has them."""
    kind, limit = "not-finite", "any entry is NaN or infinite, or a logit is NaN"
    bad = ~case.drawn.isfinite()
    measured = {"entries that are not finite": float(bad.sum())}
    if not bool(bad.any()) and not bool(case.logits.isnan().any()):
        return Check(kind, measured, limit)
    value = next((node for node in case.signals if not _is_finite(case.values[node])), None)
    if value is not None:
        where, edge = Place.of(value), _outside(case, value)
        message = f"the network itself computes NaN or infinite values, first at {where.op}{edge}."
    else:
        call = _first_bad_message(case)
        where, edge = None if call is None else Place.of(call), "" if call is None else _derivative_outside(case, call)
        message = f"the network's values are finite; what is handed back is not{edge}."
        if where is None:
            message += " Where that begins is unknown." if case.no_walk else " It begins in the read-out."
    advice = (
        "keep the operation off that edge in the model, as by adding a small number or by clamp(min=1e-6)."
        if edge
        else f"{case.method.not_finite}{_wider(case)}check the preprocessing and the running variances of batch norms, "
        "and, with rules of your own, that they divide by nothing that is 0."
    )
    return found(kind, measured, limit, where, message, advice, no_walk=case.no_walk)


def _is_finite(value: Any) -> bool:
    parts = value if isinstance(value, tuple | list) else (value,)
    return all(bool(part.isfinite().all()) for part in parts if isinstance(part, Tensor))


def _wider(case: Case) -> str:
    """Advice on float64, where the map is finite in it."""
    most = f"{case.image.dtype} overflows beyond {torch.finfo(case.image.dtype).max:.1g}"
    if case.exact is None:
        return f"{most}; "
    if bool(case.exact().isfinite().all()):
        return f'explain the image in float64 (precision="float64"), in which it has a finite map, as {most}; '
    return f"{most}, and float64 gives no finite map either; "


def _outside(case: Case, node: fx.Node) -> str:
    """Why a call has no finite value for finite inputs, in words; "" where it is too large a number."""
    edge = _EDGES.get(node.target)
    if edge is None:
        return ""
    place, bad, said = edge
    read = node.args[place]
    value = case.values[read] if isinstance(read, fx.Node) else torch.as_tensor(read)
    count = int(bad(value).sum())
    return f", which {said} {count} times" if count else ""


def _derivative_outside(case: Case, node: fx.Node) -> str:
    """Why what a call hands back is not finite; "" where nobody can say."""
    if node.target not in _STEEP or case.stream == RELEVANCE:
        return ""
    count = int((case.values[node.args[0]] == 0).sum())
    return f": {op_name(node.target)} has no finite derivative at 0, which it reads {count} times" if count else ""


def _first_bad_message(case: Case) -> fx.Node | None:
    if case.walk is None:
        return None
    for call in reversed(case.canonical.calls):
        if any(not _is_finite(message[:1]) for _, message in handed_by(call, case.walk.handed[case.stream])):
            return call
    return None


def precision(case: Case) -> Check:
    """How far the map is from the same map in float64, and from which call on."""
    kind, limit = "precision", f"more than {VISIBLE} of the largest value"
    if case.exact is None:
        return Check(kind, limit=limit, left_out="the map is computed in float64 already; there is nothing to compare")
    apart = float(relative_difference(case.drawn[None, None], case.exact()[None, None]))
    measured = {"difference from float64": apart}
    if not apart > VISIBLE:
        return Check(kind, measured, limit)
    walks = (case.walk, case.exact_walk)
    where = beginning(case, _apart, VISIBLE, *walks) or beginning(case, _apart, VISIBLE, case.other_walk, walks[1])
    message = f"in float64 the map is another one: {apart:.1g} of its largest value apart."
    if where is not None:
        message += f" What {where.op} hands back is apart first: {_why_apart(case, where)}."
    value, difference = _first_inexact(case)
    if value is not None:
        measured["difference of the value"] = difference
        message += (
            f" The network's own values are apart from %{value.name} on ({difference:.1g}): digits are lost there."
        )
    no_walk = case.no_place or ("the model names dtypes, so that layers cannot be compared" if None in walks else "")
    on_edge = where is not None and _why_apart(case, where) == _ON_EDGE
    further = f"; {case.method.rounding}" if case.method.rounding and not on_edge else ""
    advice = f'explain such images with precision="float64"{further}.'
    return found(kind, measured, limit, where, message, advice, no_walk=no_walk)


def _apart(node: fx.Node, message: Tensor, exact: Tensor) -> float:
    return float(relative_difference(message[:1].reshape(1, 1, -1), exact[:1].reshape(1, 1, -1)))


def _why_apart(case: Case, where: Place) -> str:
    """How rounding becomes a difference at a call, in words."""
    node = next(node for node in case.signals if node.name == where.node)
    if family_of(node) is Family.SELECTION or node.target in (aten.hardtanh.default, aten.clamp.default):
        return _ON_EDGE
    return "its rule rounds there, as a division by a sum close to 0 does" if case.stream == RELEVANCE else _VALUES


def _first_inexact(case: Case) -> tuple[fx.Node | None, float]:
    """The first value of the network that is further than `TRUSTED` from float64, and how far it is."""
    exact = case.canonical.forward(case.image.double(), case.weights(torch.float64))
    for node in case.signals:
        own, other = (values[node] for values in (case.values, exact))
        if isinstance(own, Tensor) and own.is_floating_point():
            difference = float(relative_difference(own.reshape(1, 1, -1), other.reshape(1, 1, -1)))
            if difference > TRUSTED:
                return node, difference
    return None, 0.0


def growth(case: Case) -> Check:
    """How much the sum of absolute relevance grows."""
    kind, limit = "exploding", f"the sum of absolute relevance grows more than {GROWTH:g} times"
    flows = () if case.conservation is None else case.conservation.flows
    left_out = _no_flows(case, flows)
    if not left_out and any(flow.promise.startswith(Promise.SHIFTS) for flow in flows):
        left_out = f"{case.method.name} adds terms on purpose, whose sum is 0 and whose size is not"
    if left_out:
        return Check(kind, limit=limit, left_out=left_out)
    grown = float(case.walk.relevance[case.canonical.images.name][0].abs().sum()) / _size(flows[0])
    measured = {"growth": grown}
    if not grown > GROWTH:
        return Check(kind, measured, limit)
    where, factor = _steepest(case)
    measured["growth at the layer"] = factor
    message = (
        f"from the logits to the pixels the sum of absolute relevance grows {grown:.2g} times, and at {where.op} alone "
        f"{factor:.2g} times: large values of both signs cancel, by divisions by sums close to 0."
    )
    advice = (
        'choose a rule with a larger stabiliser or without signs there, such as method="lrp-epsilon" with a larger '
        'epsilon, "lrp-gamma" or "epsilon-plus".'
    )
    return found(kind, measured, limit, where, message, advice)


def _steepest(case: Case) -> tuple[Place, float]:
    """The call that enlarges the sum of absolute relevance most, and by how much."""
    worst, most = case.canonical.logits, 0.0
    for call in case.signals[1:]:
        received = case.walk.relevance.get(call.name)
        size = 0.0 if received is None else float(received[0].abs().sum())
        handed = handed_by(call, case.walk.handed[RELEVANCE])
        grown = sum(float(message[0].abs().sum()) for _, message in handed)
        if size > 0 and grown / size > most:
            worst, most = call, grown / size
    return Place.of(worst), most


def conserved(case: Case) -> Check:
    """Whether calls whose rules promise to conserve the sum of relevance do."""
    kind = "not-conserved"
    limit = (
        f"a call that promises to conserve changes the sum by more than {BROKEN} of the absolute relevance around it"
    )
    flows = () if case.conservation is None else case.conservation.flows
    left_out = _no_flows(case, flows)
    promising = [flow for flow in flows if _promises(flow) and _size(flow) > 0]
    if not left_out and not promising:
        left_out = f"no rule of {case.method.name} promises to conserve the sum"
    if left_out:
        return Check(kind, limit=limit, left_out=left_out)
    shares = {flow.node: abs(float(flow.change[0, 0])) / _larger(case, flow) for flow in promising}
    total = float(case.conservation.ratio[0, 0])
    worst = max(promising, key=lambda flow: shares[flow.node])
    measured = {"largest change": shares[worst.node], "sum at the pixels over that at the logits": total}
    if not shares[worst.node] > BROKEN:
        return Check(kind, measured, limit)
    flow = next(flow for flow in promising if shares[flow.node] > BROKEN)
    measured["change at the layer"] = float(flow.change[0, 0]) / _larger(case, flow)
    message = (
        f"{flow.rule} of {flow.op} promises: {flow.promise}; it changes the sum of relevance by "
        f"{shares[flow.node]:.2g} of the absolute relevance around it. "
    )
    why, advice = _why_not_conserved(case, flow, measured)
    message += why
    advice += "; print(explainer.conservation(images)) shows every call."
    return found(kind, measured, limit, Place(flow.node, flow.module, flow.op), message, advice)


def _why_not_conserved(case: Case, flow: Flow, measured: dict[str, float]) -> tuple[str, str]:
    """Why a call loses or makes relevance, and what to do; what that was measured by goes to ``measured``."""
    node = next(node for node in case.signals if node.name == flow.node)
    received, value = case.walk.relevance[flow.node][0].abs(), case.values[node]
    at_zero = float((received * (value == 0)).sum() / received.sum().clamp(min=1e-300)) if _same(received, value) else 0
    if at_zero > BROKEN / 2:
        measured["share of its relevance at values of 0"] = at_zero
        why = f"{at_zero:.0%} of its relevance arrives where its values are 0, and a share of 0 is nothing."
        return why, "look at what hands relevance to values of 0"
    exact = case.dividing_exactly
    other = None if exact is None else next((each for each in exact.flows if each.node == flow.node), None)
    if other is None or _size(other) == 0:
        return "Its denominators are small, or the rule does not keep its promise.", _SCALE
    share = abs(float(other.change[0, 0])) / max(_size(other), float(other.handed_on[0, 0].abs()))
    measured["change at the layer, dividing exactly"] = share
    if share > BROKEN:
        why = f"Divided exactly, in float64, it is {share:.2g}: the rule does not keep its promise."
        return why, "mend the rule, or choose a method whose rules have certificates (docs/certificates.md)"
    why = f"Divided exactly, in float64, it is {share:.2g}: its denominators are about as small as what keeps them "
    exactly = 'take options={"division": "exact"}, ' if case.method.name == "agf" else ""
    return f"{why}from 0.", exactly + _SCALE


def _same(received: Tensor, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == received.shape


def _no_flows(case: Case, flows: tuple[Flow, ...]) -> str:
    """Why sums of relevance cannot be compared; "" where they can."""
    if case.no_walk:
        return case.no_walk
    if not flows:
        return f"{case.method.name} hands on no relevance to the pixels"
    if not bool((case.drawn != 0).any()):
        return "the map is blank, and what is lost is lost where it becomes so"
    size = _size(flows[0])
    return "" if 0 < size < float("inf") else "the relevance at the logits is 0 or not finite"


def _promises(flow: Flow) -> bool:
    return flow.promise.startswith(_PROMISING) and not flow.promise.startswith(_NOT_KEPT)


def _larger(case: Case, flow: Flow) -> float:
    """The absolute relevance that a call has or hands on, whichever is larger."""
    node = next(node for node in case.signals if node.name == flow.node)
    handed = handed_by(node, case.walk.handed[RELEVANCE])
    return max(_size(flow), sum(float(message[0].abs().sum()) for _, message in handed))


def _size(flow: Flow) -> float:
    return float(flow.absolute[0, 0])
