"""Maps that are the same for all classes."""

from __future__ import annotations

import math

from torch import Tensor, fx

from agf_fx.inspect.diagnosis.case import Case, beginning
from agf_fx.inspect.diagnosis.measures import similarity
from agf_fx.inspect.diagnosis.report import Check, Place, found
from agf_fx.ir.facts import facts

SAME = 0.99
"""Correlation with the map of every other class that is looked at."""


def differences(case: Case) -> Check:
    """Whether maps of other classes are the same, and from which call on."""
    kind, limit = "class-independent", f"correlates more than {SAME} with the maps of every other class looked at"
    if not case.others:
        return Check(kind, limit=limit, left_out="the model has one class")
    if not bool((case.drawn != case.drawn.flatten()[0]).any()):
        return Check(kind, limit=limit, left_out="the map is blank")
    correlations = [similarity(case.drawn, other) for other in case.drawn_of_others]
    classes = len(case.logits)
    measured = {f"class {code % classes}": value for code, value in zip(case.others, correlations, strict=True)}
    if not all(value > SAME for value in correlations):  # NaN: the other map is blank, and this one is not
        return Check(kind, measured, limit)
    if case.class_specific is False and not _of_one_class(case):
        message = f"{case.method.name} is not made to tell classes apart, and draws nearly the same map for all."
        advice = 'choose a method that is made to tell classes apart, such as method="agf", "gradcam" or "sglrp".'
        return found(kind, measured, limit, None, message, advice, severity="note")
    where = beginning(case, _least, SAME)
    message = "the map is the same for the classes that were looked at"
    if where is None:
        message += "." if case.no_place else "; layers tell them apart, and the read-out does not."
    else:
        head = _head(case, where)
        message += f"; they are told apart behind {where.op}, and no more in front of it."
        if head is not None:
            rows = _rows(case, head)
            measured |= {} if rows is None else {"correlation of the classes' weights": rows}
            message += (
                " That is the last layer: the network itself has (nearly) the same weights for these classes, or "
            )
            message += "reads one number."
    advice = (
        "compare logits of several images: where classes share everything in front of the layer, one map is the honest "
        'answer. Else choose a method that contrasts classes, method="clrp" or "sglrp".'
    )
    return found(kind, measured, limit, where, message, advice, no_walk=case.no_place)


def _least(node: fx.Node, message: Tensor) -> float | None:
    """The least correlation between the target's message and another class's."""
    found = [similarity(message[0], other) for other in message[1:]]
    known = [value for value in found if not math.isnan(value)]
    return min(known) if known and message[0].numel() > 1 else None


def _head(case: Case, where: Place) -> fx.Node | None:
    return next(
        (node for node in case.signals if node.name == where.node and node.op != "placeholder" and facts(node).head),
        None,
    )


def _of_one_class(case: Case) -> bool:
    """Whether a last layer has the same weights for the classes that are looked at, whatever the method."""
    heads = [node for node in case.signals if node.op == "call_function" and facts(node).head]
    found = [rows for rows in (_rows(case, head) for head in heads) if rows is not None]
    return bool(found) and min(found) > SAME


def _rows(case: Case, head: fx.Node) -> float | None:
    """The least correlation of the target's row of the last layer's weight with another class's."""
    weight = case.weights(case.image.dtype).get(getattr(head.args[1], "name", ""))
    classes = len(case.logits)
    if weight is None or len(weight) != classes:
        return None
    rows = [similarity(weight[case.target % classes], weight[code % classes]) for code in case.others]
    return min(rows, default=None)
