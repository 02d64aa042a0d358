"""Maps that are zero, or the same, everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from agf_fx.inspect.conservation import handed_by
from agf_fx.inspect.diagnosis.case import Case, passed_by_all
from agf_fx.inspect.diagnosis.report import Check, Place, found
from agf_fx.ir.facts import facts
from agf_fx.ir.vocabulary import CONVOLUTIONS, depends_on_images, operands
from agf_fx.rules.site import RELEVANCE
from agf_fx.rules.targets import class_of

aten = torch.ops.aten

_LAYERS = (aten.linear.default, *CONVOLUTIONS)
_GATED = (aten.mul.Tensor, aten.where.self, aten.div.Tensor)
_BOUNDED = (
    *(aten.clamp.default, aten.hardtanh.default, aten.hardsigmoid.default, aten.hardswish.default),
    *(aten.sigmoid.default, aten.tanh.default, aten.softmax.int),
)


@dataclass(frozen=True)
class Cause:
    """Why nothing arrives.

    Attributes:
        place: where; None where that is unknown.
        message: in words.
        advice: what to do.
        measured: the numbers behind it.
    """

    place: Place | None
    message: str
    advice: str
    measured: dict[str, float] = field(default_factory=dict)


_ROUNDING = 1e-6  # of the largest size, by which entries of a map of one value may differ
_OTHER_IMAGE = "check the preprocessing (range, mean, deviation), and explain another image."


def blank(case: Case) -> Check:
    """Whether the map is one number everywhere, and the call behind which nothing is left."""
    kind, limit = "blank", "every entry is the same, but for rounding"
    largest, least = float(case.drawn.max()), float(case.drawn.min())
    measured = {"largest": largest, "least": least}
    even = largest - least <= _ROUNDING * max(abs(largest), abs(least))
    if not even or case.drawn.numel() < 2:
        return Check(kind, measured, limit)
    cause = _constant_image(case) or (_one_value(case, largest) if largest != 0 else _cause(case))
    measured |= cause.measured
    return found(kind, measured, limit, cause.place, cause.message, cause.advice, no_walk=case.no_walk)


def _one_value(case: Case, value: float) -> Cause:
    """The map is one number other than 0: because of values that are 0, or of the place where it is read off."""
    for node in reversed(passed_by_all(case.signals)):
        dead = _dead(case, node) if node.op == "call_function" else None
        if dead is not None:
            return dead
    message = (
        f"every pixel has the value {value:.3g}: what the map is read off has one position, or the same values at all "
        "of them."
    )
    advice = (
        'look at the values there (explainer.explain(images, layers=[...], quantities=["value"])), name a layer with '
        'several positions where the method has one (options={"layer": ...}), or explain a larger image.'
    )
    return Cause(None, message, advice)


def _constant_image(case: Case) -> Cause | None:
    """The image has no contrast, and nothing else stands in the way before the first layer."""
    channels = case.method.channels_of(case.canonical)
    values = case.image if channels is None else case.image[0].movedim(channels - 1, 0)
    spread = float((values.flatten(1).amax(1) - values.flatten(1).amin(1)).max())
    call = next(iter(_blocked(case)), None)
    if spread > 0 or (call is not None and case.canonical.images not in call.all_input_nodes):
        return None
    if not bool((case.image != 0).any()):
        message = "the image is 0 everywhere, as the model takes it, so that no product with it is anything else."
        return Cause(None, message, _OTHER_IMAGE, {"largest value of the image": 0.0})
    message = "the image is constant: its channels have one value each, so that no pixel differs from another."
    return Cause(None if call is None else Place.of(call), message, _OTHER_IMAGE, {"contrast of the image": spread})


def _cause(case: Case) -> Cause:
    """What stands in the way, from the logits to the pixels."""
    if case.walk is None:
        message = _because("the map is zero everywhere", case.method.blank)
        advice = 'diagnose the image with method="gradient", which shows the layer where nothing is left.'
        return Cause(None, message, advice)
    causes = [_why_blocked(case, call) for call in _blocked(case)]
    if causes:
        return _together(list({cause.message: cause for cause in causes}.values()))
    seed = _seed(case)
    if seed is not None:
        return seed
    message = _because("something reaches the pixels, and the read-out leaves nothing of it", case.method.blank)
    advice = "explain a class that the network sees (top_k=3), or keep both signs, where the method can (relu=False)."
    return Cause(None, message, advice)


def _because(what: str, why: str) -> str:
    return f"{what}: {why}." if why else f"{what}."


def _together(causes: list[Cause]) -> Cause:
    """One cause of several that each stand in the way on a branch of their own; the first has the place."""
    first, others = causes[0], causes[1:]
    message = " ".join([first.message, *(f"On another branch, {other.message}" for other in others[:2])])
    if len(others) > 2:
        message += f" {len(others) - 2} other branches are closed as well."
    advice = dict.fromkeys(cause.advice.removesuffix(".") for cause in causes[:3])
    return Cause(first.place, message, "; and ".join(advice) + ".", first.measured)


def _blocked(case: Case) -> list[fx.Node]:
    """The calls, from the logits on, that something arrives at and nothing leaves.

    In the stream that maps are read off, or else in one before it that it starts from.
    """
    if case.walk is None:
        return []
    names = [stream.name for stream in case.method.streams]
    for name in [case.stream, *(other for other in names if other != case.stream)]:
        blocked = []
        for call in reversed(case.canonical.calls):
            received = case.walk.messages[name].get(call.name)
            given = handed_by(call, case.walk.handed[name])
            arrives = received is not None and bool((received[0] != 0).any())
            if arrives and given and not any(bool((message[0] != 0).any()) for _, message in given):
                blocked.append(call)
        if blocked:
            return blocked
    return []


def _seed(case: Case) -> Cause | None:
    """Nothing starts at the logits."""
    start = next((stream for stream in case.method.streams if stream.seed is not None), None)
    message = None if start is None else case.walk.messages[start.name].get(case.canonical.logits.name)
    if message is None or bool((message[0] != 0).any()):
        heads = (_dead(case, node) for node in case.signals if facts(node).head)
        return next((cause for cause in heads if cause is not None), None)
    if not bool((case.logits != 0).any()):
        dead = _dead(case, case.canonical.logits)
        if dead is not None and dead.place is not None:
            return dead
    logit = float(case.logits[_class_of(case)])
    if start.name == RELEVANCE and logit == 0:
        message = "relevance starts with the logit of the class, and that is 0: there is nothing to hand out."
        advice = 'explain a class that the network sees (top_k=3), or take a method of derivatives (method="gradient").'
        return Cause(Place.of(case.canonical.logits), message, advice, {"logit of the class": logit})
    ordered = case.logits.sort(descending=True).values
    gap = float(ordered[0] - ordered[1]) if len(ordered) > 1 else 0.0
    said = (
        f"the score that is differentiated does not change: its gradient at the logits is 0 in {case.image.dtype}. The "
        f"two largest lie {gap:.3g} apart"
    )
    bounded = float(ordered[-1]) >= 0 and float(ordered[0]) <= 1 and abs(float(ordered.sum()) - 1) < 1e-3
    said += ", and they sum to 1: the model returns probabilities." if bounded else "."
    advice = (
        "return logits, before any softmax or sigmoid (output= chooses them), or explain in float64 "
        '(precision="float64"); a gradient of the logit itself, method="gradient", does not saturate.'
    )
    return Cause(Place.of(case.canonical.logits), said, advice, {"gap of the logits": gap})


def _why_blocked(case: Case, call: fx.Node) -> Cause:
    """Why a call hands nothing on, from its values."""
    dead = _dead(case, call) or _multiplied(case, call)
    if dead is not None:
        return dead
    value, place = _first(case.values[call]), Place.of(call)
    without = _without_weights(case, call)
    if without is not None:
        return without
    if call.target in _BOUNDED:
        inputs = _first(case.values[operands(call)[0]]).double()
        span = {"least input": float(inputs.min()), "largest input": float(inputs.max())}
        message = (
            f"{place.op} is saturated: all its inputs lie between {span['least input']:.3g} and "
            f"{span['largest input']:.3g}, where its derivative is 0 in {value.dtype}."
        )
        advice = (
            "check the preprocessing, which may make inputs too large; take a softmax or sigmoid inside the model off, "
            'scale what it reads, or explain in float64 (precision="float64")'
        )
        if call.target is not aten.softmax.int:
            advice += '; relevance passes activations unchanged (method="agf" or "lrp-epsilon")'
        advice += "."
        return Cause(place, message, advice, span)
    message = f"something arrives at {place.op} and nothing leaves it: its derivative or share is 0 at this image."
    advice = 'look at the layer\'s values (explainer.explain(images, layers=[...], quantities=["value"])).'
    return Cause(place, message, advice, {"largest value there": float(value.double().abs().max())})


def _class_of(case: Case) -> int:
    return int(class_of(torch.tensor(case.target), case.canonical.num_classes))


def _without_weights(case: Case, call: fx.Node) -> Cause | None:
    """A last layer in which the class has no weights; None where it has some."""
    if not facts(call).head or call.target not in _LAYERS:
        return None
    weight = case.values[call.args[1]]
    row = weight[_class_of(case)] if len(weight) == case.canonical.num_classes else weight
    if bool((row != 0).any()):
        return None
    message = "the class has no weights in the last layer, all are 0: nothing of the image speaks for it or against it."
    advice = "explain another class (top_k=3), and check that the weights of the last layer were loaded."
    return Cause(Place.of(call), message, advice, {"largest weight of the class": 0.0})


def _dead(case: Case, call: fx.Node) -> Cause | None:
    """Where the signal became 0 everywhere that a call reads, or puts out; None where it is not 0."""
    node = call if _is_zero(case.values[call]) else _zero_operand(case, call)
    if node is None:
        return None
    while (earlier := _zero_operand(case, node)) is not None:
        node = earlier
    if node is case.canonical.images:
        message = "the image is 0 everywhere, as the model takes it, so that no product with it is anything else."
        return Cause(None, message, _OTHER_IMAGE, {"largest value of the image": 0.0})
    place, gates = Place.of(node), [gate for gate in node.all_input_nodes if _is_zero(case.values.get(gate))]
    multiplied = _multiplied(case, node)
    if multiplied is not None:
        return multiplied
    if node.target in _GATED and gates:
        message = f"the gate %{gates[0].name} is 0 everywhere, so that {place.op} lets nothing of the signal through."
        advice = "look at what closes it: a threshold, a mask or a comparison that no value of this image passes."
        return Cause(place, message, advice, {"open share of the gate": 0.0})
    reads = _first(case.values[next(filter(depends_on_images, node.all_input_nodes))]).double()
    span = {"least input": float(reads.min()), "largest input": float(reads.max())}
    if node.target is aten.hardsigmoid.default:
        message = (
            f"the gate {place.op} is closed: its inputs lie between {span['least input']:.3g} and "
            f"{span['largest input']:.3g}, and below -3 it is 0, so that nothing of what it is multiplied with passes."
        )
        return Cause(
            place, message, "look at what makes the gate's inputs so small, and check the preprocessing.", span
        )
    message = (
        f"all features are 0 behind {place.op}, whose inputs lie between {span['least input']:.3g} and "
        f"{span['largest input']:.3g}"
    )
    message += ": the logits are the biases' alone." if node in passed_by_all(case.signals) else "."
    advice = "check the preprocessing, and that the weights were loaded"
    if node.target is aten.relu.default:
        advice += "; a ReLU that is closed for every image has died in training."
    else:
        advice += "; look at what makes these inputs what they are."
    return Cause(place, message, advice, span)


def _multiplied(case: Case, node: fx.Node) -> Cause | None:
    """A call that multiplies its signal with 0; None where it does not."""
    place, factor = Place.of(node), _zero_factor(case, node)
    if factor is None:
        return None
    message = f"{place.op} multiplies the signal with {factor}, so that nothing of it passes."
    advice = "check that the weights were loaded; where they start at 0, the model is to be trained first."
    advice = "look at what sets this factor in the model's forward()." if factor == "0" else advice
    return Cause(place, message, advice, {"largest factor": 0.0})


def _zero_factor(case: Case, node: fx.Node) -> str | None:
    """What is 0 of that a call multiplies its signal with, for every image alike; None where it is not that."""
    if node.target in _LAYERS:
        factors = [node.args[1]]
    elif node.target is aten.mul.Tensor:
        factors = [factor for factor in node.args if not (isinstance(factor, fx.Node) and depends_on_images(factor))]
    else:
        return None
    for factor in factors:
        if not isinstance(factor, fx.Node):
            if factor == 0:
                return "0"
        elif not _looks_at_images(case, factor) and _is_zero(case.values.get(factor)):
            path = case.canonical.signature.weights.get(factor.name)
            return f"{path}, which is 0 everywhere" if path else f"%{factor.name}, which is 0 everywhere"
    return None


def _looks_at_images(case: Case, node: fx.Node) -> bool:
    """Whether a value is computed of the images, by comparisons too, through which no signal goes."""
    waiting, seen = [node], {node}
    while waiting:
        current = waiting.pop()
        if current is case.canonical.images:
            return True
        waiting += [before for before in current.all_input_nodes if before not in seen]
        seen |= {*current.all_input_nodes}
    return False


def _zero_operand(case: Case, node: fx.Node) -> fx.Node | None:
    """A signal that a call reads and that is 0 everywhere."""
    if node.op != "call_function":
        return None
    signals = filter(depends_on_images, node.all_input_nodes)
    return next((signal for signal in signals if _is_zero(case.values[signal])), None)


def _first(value: Any) -> Tensor:
    return value[0] if isinstance(value, tuple | list) else value


def _is_zero(value: Any) -> bool:
    tensor = _first(value)
    return isinstance(tensor, Tensor) and not bool((tensor != 0).any())
