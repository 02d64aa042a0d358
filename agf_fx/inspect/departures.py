"""Where the relevances, or the gradients, of an image part in two explanations of it: from the logits to the pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.ir.text import op_name
from agf_fx.ir.vocabulary import depends_on_images
from agf_fx.rules.site import GRADIENT, RELEVANCE

IMAGES = "the images"

Messages = Mapping[str, Mapping[str, Tensor]]
"""Stream -> call of the model -> what the stream has at its output."""

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Of relative differences: below them, two values are the same but for rounding."""


@dataclass(frozen=True)
class Departure:
    """Two relevances of the output of one call of the model, for one image and target.

    Attributes:
        call: of the model, or the name of its images.
        layer: path of the module that makes it.
        op: the operation.
        difference: the norm of the difference beside the larger norm, once the first is scaled by `Departures.scale`:
            0 where they are equal, 1 and more where they have nothing in common.
        cosine: of the angle between them: 1 where they are the same but for a factor, -1 where one is the other turned.
        sums: of both, as they are.
    """

    call: str
    layer: str
    op: str
    difference: float
    cosine: float
    sums: tuple[float, float]


@dataclass(frozen=True)
class Departures:
    """The relevances of one image and target, by two explanations.

    Attributes:
        target: the class that is explained.
        quantity: what is compared: "relevance", or "gradient" where one of them has no relevance.
        scale: the factor of the second against the first at the first value that both have.
        all: from the logits to the images, the values that both have.
        tolerance: from which difference on they are said to part.
        maps: the same of the heat maps themselves; None where they have different shapes.
        causes: what hands on the first that parts: calls of the model whose own relevances are the same.
        dtypes: those that both were computed in, such as ("float64", "float64").
    """

    target: int
    quantity: str
    scale: float
    all: tuple[Departure, ...]
    tolerance: float
    maps: Departure | None
    causes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()

    @property
    def parted(self) -> list[Departure]:
        """Those that differ by more than rounding, from the logits to the images."""
        return [departure for departure in self.all if not departure.difference <= self.tolerance]

    @property
    def first(self) -> Departure | None:
        """The first that differs, on the way from the logits to the images; None where none does."""
        return next(iter(self.parted), None)

    @property
    def sharpest(self) -> Departure | None:
        """Where the two turn away from each other most, from one value to the next in order; None where they do not."""
        steps = [(before.cosine - after.cosine, after) for before, after in zip(self.all, self.all[1:], strict=False)]
        turn, found = max(steps, key=lambda step: step[0], default=(0.0, None))
        return found if turn > self.tolerance else None

    def lines(self) -> Iterator[str]:
        """What was found, in words."""
        if not self.all:
            yield f"no call of the model has a {self.quantity} in both"
        elif self.first is None:
            factor = "" if abs(self.scale - 1) <= self.tolerance else f", but for a factor of {self.scale:.6g},"
            yield f"{self.quantity} of class {self.target} is the same{factor} at all {len(self.all)} values"
        else:
            first, sharp = self.first, self.sharpest
            yield (
                f"{self.quantity} of class {self.target} parts at the output of {_named(first)}: difference "
                f"{first.difference:.3g}, cosine {first.cosine:.4g}{_handed_on(self.causes)}"
            )
            if sharp is not None and sharp is not first:
                yield f"they turn away from each other most at the output of {_named(sharp)}: cosine {sharp.cosine:.4g}"
        if self.maps is not None:
            computed = f", computed in {' and '.join(dict.fromkeys(self.dtypes))}" if self.dtypes else ""
            yield f"the maps{computed}: difference {self.maps.difference:.3g}, cosine {self.maps.cosine:.4g}"
        else:
            yield "the maps have different shapes"


def _named(departure: Departure) -> str:
    if departure.layer:
        return f"{departure.layer} (%{departure.call} = {departure.op})"
    return departure.op if departure.op == IMAGES else f"{departure.op} in the model's own forward (%{departure.call})"


def _handed_on(causes: Sequence[str]) -> str:
    return f"; handed on by {', '.join(causes)}, whose own is the same" if causes else ""


def departures(
    canonical: CanonicalGraph, messages: tuple[Messages, Messages], maps: tuple[Tensor, Tensor], target: int
) -> Departures:
    """Compare what two explanations of one image have at every call of the model.

    Args:
        canonical: the model.
        messages: of both, for one image and one target.
        maps: of both, (1, 1, ...).
        target: the class that both explain.
    """
    quantity = RELEVANCE if all(of.get(RELEVANCE) for of in messages) else GRADIENT
    one, other = (of.get(quantity, {}) for of in messages)
    nodes = [node for node in reversed(canonical.calls) if depends_on_images(node)] + [canonical.images]
    common = [
        node
        for node in nodes
        if node.name in one and node.name in other and one[node.name].shape == other[node.name].shape
    ]
    scale = next((ratio for node in common if (ratio := _ratio(one[node.name], other[node.name]))), 1.0)
    found = tuple(_departure(node, one[node.name], other[node.name], scale) for node in common)
    tolerance = max((TOLERANCES.get(map_.dtype, 1e-3) for map_ in maps), default=1e-3)
    drawn = None
    if maps[0].shape == maps[1].shape:
        drawn = _departure(canonical.images, *maps, _ratio(*maps) or 1.0)
    dtypes = tuple(str(map_.dtype).removeprefix("torch.") for map_ in maps)
    whole = Departures(target, quantity, scale, found, tolerance, drawn, dtypes=dtypes)
    return replace(whole, causes=_causes(whole, common))


def _causes(whole: Departures, common: Sequence[fx.Node]) -> tuple[str, ...]:
    """The readers of the first value that parts whose own values do not."""
    first, parted = whole.first, {departure.call for departure in whole.parted}
    if first is None:
        return ()
    same = {node for node in common if node.name not in parted}
    node = next(node for node in common if node.name == first.call)
    return tuple(f"{user.meta['module'] or 'the model'} (%{user.name})" for user in node.users if user in same)


def _ratio(one: Tensor, other: Tensor) -> float:
    """The factor between two values: 0 where one of them is zero or not finite."""
    norms = [float(value.double().norm()) for value in (one, other)]
    return norms[1] / norms[0] if all(0 < norm < float("inf") for norm in norms) else 0.0


def _departure(node: fx.Node, one: Tensor, other: Tensor, scale: float) -> Departure:
    a, b = one.double().flatten() * scale, other.double().flatten()
    norms = float(a.norm()), float(b.norm())
    largest = max(norms)
    return Departure(
        call=node.name,
        layer=node.meta.get("module", ""),
        op=IMAGES if node.op == "placeholder" else op_name(node.target),
        difference=float((a - b).norm()) / largest if largest else 0.0,
        cosine=float(a @ b) / (norms[0] * norms[1]) if all(norms) else float(norms[0] == norms[1]),
        sums=(float(one.double().sum()), float(b.sum())),
    )


def run_graph(graph: ExplanationGraph, images: Tensor, target: Tensor, inputs: Mapping[str, Tensor]) -> Run:
    """Run an explanation graph, and keep what every stream has at every call of the model.

    Args:
        graph: at any stage behind emission.
        images: (1, C, ...), in the dtype of the graph.
        target: (1, 1) int64.
        inputs: placeholder name -> weight or constant.
    """
    given = dict(inputs)
    if graph.prepare is not None:
        names = [node.name for node in graph.prepare.graph.find_nodes(op="placeholder")]
        given |= zip(graph.prepared, graph.prepare(*(inputs[name] for name in names)), strict=True)
    run = Run(graph.module)
    maps, logits, *_ = run.run(images, target, *(given[name] for name in graph.inputs))
    run.maps, run.logits = maps, logits
    return run


class Run(fx.Interpreter):
    """One run of an explanation graph.

    Attributes:
        messages: stream -> call of the model -> what the stream has at its output, (1, 1, ...).
        maps: (1, 1, ...).
        logits: (1, classes).
    """

    maps: Tensor
    logits: Tensor

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.messages: dict[str, dict[str, Tensor]] = {}

    def run_node(self, n: fx.Node) -> object:
        """Run one node; what it computes is copied, as others may write over it."""
        value = super().run_node(n)
        for name in n.meta.get("stream_of", ()):
            self.messages.setdefault(n.meta["stream"], {})[name] = value.clone()
        return value
