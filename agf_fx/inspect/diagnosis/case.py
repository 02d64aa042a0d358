"""One map and what is behind it: the walk from the logits to the pixels, made when somebody asks for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from agf_fx.emit import Streams, interpret
from agf_fx.inspect.conservation import ConservationReport, handed_by, summed
from agf_fx.inspect.diagnosis.report import Place
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import depends_on_images
from agf_fx.methods.method import Method
from agf_fx.rules.numerics import EXACT
from agf_fx.rules.site import GRADIENT, RELEVANCE

_PICTURES = 4  # dimensions of (N, C, H, W)


@dataclass(frozen=True, eq=False)
class Case:
    """One image, one target, and its map.

    Attributes:
        canonical: an analysed canonical graph.
        method: the method.
        class_specific: whether it is made to tell classes apart; None where nobody says.
        reaches_input: whether its map is of what is handed back to the pixels, and not of an inner layer.
        image: (1, C, ...), in the dtype of the maps.
        logits: (classes,), the mean over positions where there are several.
        target: the code of the target, as in `agf_fx.rules.targets`.
        others: codes of other classes at the same place.
        drawn: the map, (H, W) or another form, float64.
        drawn_of_others: their maps, (others, H, W).
        exact: makes the map in float64; None where the map is computed in it.
        again: image (1, C, ...) -> its map for the target.
        weights: dtype -> placeholder name -> weight or constant.
    """

    canonical: CanonicalGraph
    method: Method
    class_specific: bool | None
    reaches_input: bool
    image: Tensor
    logits: Tensor
    target: int
    others: tuple[int, ...]
    drawn: Tensor
    drawn_of_others: Tensor
    exact: Callable[[], Tensor] | None
    again: Callable[[Tensor], Tensor]
    weights: Callable[[torch.dtype], Mapping[str, Tensor]]

    @property
    def no_walk(self) -> str:
        """Why layers cannot be looked at; "" where they can."""
        if self.method.step is not None:
            return f"{self.method.name} moves the weights for every map"
        if self.method.points is not None or self.method.search is not None:
            return f"{self.method.name} looks at every image many times, and has no one walk through the layers"
        if not self.method.streams:
            return f"{self.method.name} hands nothing back through the layers"
        if self.method.baseline is not None and len(self.method.baseline.images(self.canonical.image_type)) > 1:
            return f"{self.method.name} is a mean over several baselines"
        return ""

    @property
    def no_place(self) -> str:
        """Why nothing can be said of the layer where something begins; "" where it can."""
        inner = f"the map of {self.method.name} is read off inner layers, and not off what is handed back to the pixels"
        return self.no_walk or ("" if self.reaches_input else inner)

    @property
    def stream(self) -> str:
        """The stream that maps are read off: relevance, or else the gradient; "" where there is none."""
        names = [stream.name for stream in self.method.streams]
        return next((name for name in (RELEVANCE, GRADIENT, *names) if name in names), "")

    @functools.cached_property
    def walk(self) -> Streams | None:
        """The walk for the target and, behind it, the others; None where there is none."""
        return None if self.no_walk else self._walk(self.image.dtype, (self.target, *self.others))

    @functools.cached_property
    def exact_walk(self) -> Streams | None:
        """The walk for the target in float64; None where there is none, or the model names dtypes of its own."""
        return None if self.no_walk or _names_dtypes(self.canonical) else self._walk(torch.float64, (self.target,))

    @functools.cached_property
    def other_walk(self) -> Streams | None:
        """The walk for the target channels-last, as graphs may run, whose sums round in another order; None where the
        images have no such layout, or there is no walk."""
        if self.no_walk or self.image.dim() != _PICTURES:
            return None
        return self._walk(self.image.dtype, (self.target,), torch.channels_last)

    @functools.cached_property
    def dividing_exactly(self) -> ConservationReport | None:
        """The sums of relevance for the target in float64, where nothing keeps denominators from 0; None as above."""
        if self.conservation is None or _names_dtypes(self.canonical):
            return None
        exact = replace(self, method=self.method.divided(EXACT), others=())
        return summed(self.canonical, exact.exact_walk, exact._codes, torch.float64)

    def _walk(
        self, dtype: torch.dtype, codes: tuple[int, ...], layout: torch.memory_format = torch.contiguous_format
    ) -> Streams:
        target = torch.tensor([codes], device=self.image.device)
        image = self.image.to(dtype, memory_format=layout)
        return interpret(self.canonical, self.method, image, target, self.weights(dtype))

    @functools.cached_property
    def conservation(self) -> ConservationReport | None:
        """The sums of relevance on the walk; None where none reaches the pixels."""
        if self.stream != RELEVANCE or self.walk is None or self.canonical.images.name not in self.walk.relevance:
            return None
        return summed(self.canonical, self.walk, self._codes, self.image.dtype)

    @property
    def _codes(self) -> Tensor:
        return torch.tensor([[self.target, *self.others]], device=self.image.device)

    @functools.cached_property
    def values(self) -> Mapping[fx.Node, Any]:
        """The value of every node of the model."""
        return self.canonical.forward(self.image, self.weights(self.image.dtype))

    @functools.cached_property
    def signals(self) -> list[fx.Node]:
        """The images and all calls that a signal goes through, in order of execution."""
        return [self.canonical.images, *(node for node in self.canonical.calls if depends_on_images(node))]


def _names_dtypes(canonical: CanonicalGraph) -> bool:
    """Whether a call converts to a floating-point dtype or makes tensors of one."""
    named = [item for node in canonical.calls for item in (*node.args, *node.kwargs.values())]
    return any(isinstance(item, torch.dtype) and item.is_floating_point for item in named)


Measure = Callable[..., float | None]
"""(value's node, what each walk has there, (K, 1, ...)) -> a number; None where it has no meaning."""


def beginning(case: Case, measure: Measure, limit: float, *walks: Streams | None) -> Place | None:
    """The call from which on, on the way to the pixels, something measures more than ``limit`` up to the pixels.

    Looked for first among the values that every way passes, then among the calls between the last of them that
    measures less and the first that measures more. None where the message at the images does not measure more, so that
    it begins in the read-out, or `Case.no_place` says why there is none.

    Args:
        case: the map.
        measure: see there.
        limit: more is a finding.
        walks: those that are measured together; by default the case's.
    """
    walks = walks or (case.walk,)
    if case.no_place or any(walk is None for walk in walks):
        return None
    at = functools.partial(_at_value, case, measure, walks)
    found = stopped = None
    for node in passed_by_all(case.signals):
        value = at(node)
        if value is None:
            continue
        if not value > limit:
            stopped = node
            break
        found = node
    if found is None:
        return None
    order = case.signals
    end = len(order) if stopped is None else order.index(stopped) + 1
    calls = order[order.index(found) + 1 : end]
    for call in reversed(calls):
        if any(value is not None and value > limit for value in _handed(case, measure, walks, call)):
            return Place.of(call)
    return Place.of(next((call for call in calls if found in call.all_input_nodes), found))


def most(case: Case, measure: Measure) -> float | None:
    """The most that is measured where every way passes; None where nothing can be, or `Case.no_place` says why."""
    if case.no_place or case.walk is None:
        return None
    known = [_at_value(case, measure, (case.walk,), node) for node in passed_by_all(case.signals)]
    return max((value for value in known if value is not None), default=None)


def _at_value(case: Case, measure: Measure, walks: tuple[Streams, ...], node: fx.Node) -> float | None:
    messages = [walk.messages[case.stream].get(node.name) for walk in walks]
    return None if any(message is None for message in messages) else measure(node, *messages)


def _handed(case: Case, measure: Measure, walks: tuple[Streams, ...], call: fx.Node) -> list[float | None]:
    given = [handed_by(call, walk.handed[case.stream]) for walk in walks]
    return [measure(pairs[0][0], *(message for _, message in pairs)) for pairs in zip(*given, strict=True)]


def passed_by_all(order: list[fx.Node]) -> list[fx.Node]:
    """Of nodes in order of execution, the first among them the images: those that every way to the logits passes."""
    place = {node: index for index, node in enumerate(order)}
    last = [max((place[user] for user in node.users if user in place), default=0) for node in order]
    found, reach = [], 0
    for index, node in enumerate(order):
        if reach <= index:
            found.append(node)
        reach = max(reach, last[index])
    return found
