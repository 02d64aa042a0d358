"""Two explanations side by side: their graphs, and what an image has in both."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from agf_fx.ambient import check_concrete, shielded, without_tf32
from agf_fx.emit import interpret
from agf_fx.errors import InputError, OptionsError
from agf_fx.inspect.departures import Messages, departures, run_graph
from agf_fx.inspect.difference import GraphDifference, compared, difference
from agf_fx.inspect.layer_maps import why_not_at_layers
from agf_fx.inspect.page import write
from agf_fx.ir.graph import ExplanationGraph
from agf_fx.rules.targets import explained_classes
from agf_fx.runtime.inputs import as_batch

if TYPE_CHECKING:
    from agf_fx.runtime.explainer import Explainer


def between(one: Explainer, other: Explainer, image: Tensor | None, target: int | None) -> GraphDifference:
    """How two explainers differ; see `agf_fx.Explainer.difference`."""
    graphs = compared(one.graph, _title(one)), compared(other.graph, _title(other))
    if image is None:
        return difference(*graphs)
    image = _one(image)
    with shielded(), without_tf32():
        first = _walk(one, image, target)
        second = _walk(other, image, first.target if target is None else target)
        if one.graph.canonical.signature.weights != other.graph.canonical.signature.weights:
            raise OptionsError("the models have different layers, so relevances have no common places; give no image.")
        found = departures(
            one.graph.canonical, (first.messages, second.messages), (first.maps, second.maps), first.target
        )
    return difference(*graphs, found)


def between_stages(
    explainer: Explainer, before: str, after: str, image: Tensor | None = None, target: int | None = None
) -> GraphDifference:
    """How an explanation graph differs between two stages of the compiler.

    Args:
        explainer: of a model.
        before, after: "emitted", "optimised", or a step behind emission, as in ``"before:fold_batch_norms"``.
        image: (1, C, ...), to compare the relevances at all calls that both graphs still have.
        target: class to explain; None for the top class.

    Raises:
        OptionsError: there is no such stage or step.
        InputError: nothing has been captured yet, or ``image`` is not one image.
    """
    graphs = [staged(explainer, name) for name in (before, after)]
    ends = [
        compared(graph, f"{_title(explainer)}, {name}") for graph, name in zip(graphs, (before, after), strict=True)
    ]
    if image is None:
        return difference(*ends)
    image = _one(image)
    with shielded(), without_tf32(), torch.no_grad():
        bound, weights, codes = explainer._request(image, target, None)
        _refuse_many(explainer)
        placement = bound.program.placement
        cast = {name: placement.cast(weight.detach()) for name, weight in weights.items()}
        runs = [run_graph(graph, placement.cast(image), codes, cast) for graph in graphs]
        chosen = int(explained_classes(runs[0].logits, codes).flatten()[0])
        found = departures(
            graphs[0].canonical, (runs[0].messages, runs[1].messages), (runs[0].maps, runs[1].maps), chosen
        )
    return difference(*ends, found)


def write_stages(
    explainer: Explainer, before: str, after: str, path: str | os.PathLike[str], title: str | None = None
) -> None:
    """Write the page of the graph at the second stage, with what differs from the first; see `between_stages`."""
    graph = staged(explainer, after)
    title = f"{title or graph.canonical.name} by {explainer._recipe.in_words}, {after}"
    write(graph, path, title=title, method=explainer._rules, difference=between_stages(explainer, before, after))


def staged(explainer: Explainer, name: str) -> ExplanationGraph:
    """The explanation graph at a stage; see `between_stages`."""
    stages = explainer.stages()
    where, colon, step = name.partition(":")
    if colon and where in ("before", "after"):
        return stages.before(step) if where == "before" else stages.after(step)
    if name not in ("emitted", "optimised"):
        raise OptionsError(
            f"{name!r} is no stage of an explanation graph; give emitted, optimised, before:STEP or after:STEP, with "
            f"one of {', '.join(stages.steps)}."
        )
    return stages[name]  # type: ignore[return-value]  # of these two, both are explanation graphs


@dataclasses.dataclass(frozen=True)
class _Walked:
    target: int
    messages: Messages
    maps: Tensor


def _walk(explainer: Explainer, image: Tensor, target: int | None) -> _Walked:
    """What an image has at every call of the model, rule by rule, in the explainer's precision."""
    _refuse_many(explainer)
    bound, weights, codes = explainer._request(image, target, None)
    placement = bound.program.placement
    cast = {name: placement.cast(weight.detach()) for name, weight in weights.items()}
    with torch.no_grad():
        streams = interpret(bound.program.canonical, explainer._rules, placement.cast(image), codes, cast)
    chosen = int(explained_classes(streams.logits, codes).flatten()[0])
    messages: Mapping[str, Mapping[str, Tensor]] = streams.messages
    return _Walked(chosen, messages, streams.maps)


def _refuse_many(explainer: Explainer) -> None:
    why = why_not_at_layers(explainer._rules)
    if why:
        raise OptionsError(f"relevances cannot be compared, as {why}; give no image.")


def _one(image: Tensor) -> Tensor:
    image = as_batch(image)
    check_concrete(image)
    if len(image) != 1:
        raise InputError(f"one image is compared, not {len(image)}; give images[:1].")
    return image


def _title(explainer: Explainer) -> str:
    """The model, the method, and those of its options that are not the defaults."""
    return f"{explainer.graph.canonical.name} by {explainer._recipe.in_words}"
