"""Whether both programs of a pair have one map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agf_fx.emit import Streams, interpret
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.methods.method import Method
from agf_fx.pipeline import analyse
from random_networks.capturing import EXACT, METHOD, captured_together, weights_of
from random_networks.judging import largest, require
from random_networks.spelling.pairs import Pair

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Worst:
    """The largest difference of two maps, as a part of the largest entry, and of two conservation ratios."""

    maps: float = 0.0
    ratios: float = 0.0

    def __or__(self, other: Worst) -> Worst:
        return Worst(max(self.maps, other.maps), max(self.ratios, other.ratios))


@dataclass(frozen=True)
class Spelled:
    """One program, captured and analysed.

    Attributes:
        canonical: its graph.
        images, target: (N, C, H, W) and (N, K).
        weights: placeholder name -> weight or constant.
    """

    canonical: CanonicalGraph
    images: Tensor
    target: Tensor
    weights: dict[str, Tensor]

    @staticmethod
    def all_of(scripts: Sequence[str]) -> list[Spelled]:
        """Programs on images of one shape, captured at once."""
        return [
            Spelled(analyse(canonical), network.images, network.target, weights_of(root, canonical))
            for network, root, canonical in captured_together(scripts)
        ]

    def streams(self, method: Method = METHOD) -> Streams:
        with torch.no_grad():
            return interpret(self.canonical, method, self.images, self.target, self.weights)


def compare(pairs: Sequence[Pair]) -> tuple[Worst, dict[int, str]]:
    """Compare pairs on images of one shape, captured at once: the worst of them, and seed -> what is wrong."""
    scripts = [script for pair in pairs for script in (pair.first, pair.second)]
    try:
        found: Sequence[Spelled | None] = Spelled.all_of(scripts)
    except Exception:  # because of any of them
        found = [None] * len(scripts)
    worst, errors = Worst(), {}
    for pair, first, second in zip(pairs, found[::2], found[1::2], strict=True):
        try:
            worst |= difference(first or Spelled.all_of([pair.first])[0], second or Spelled.all_of([pair.second])[0])
        except Exception as error:
            errors[pair.seed] = _report(pair, error)
    return worst, errors


def difference(first: Spelled, second: Spelled) -> Worst:
    """The differences, where they are small.

    Raises:
        AssertionError: a map differs by more than 1e-9 of its largest entry, and by more than rounding moves it; or
            a conservation ratio does.
    """
    maps, others = first.streams().maps, second.streams().maps
    scale = largest(maps).clamp(min=1e-300)
    error = largest(maps - others) / scale
    if bool((error > TOLERANCE).any()):
        allowed = torch.maximum(torch.full_like(error, TOLERANCE), 10 * _rounding(first) / scale)
        require(bool((error <= allowed).all()), f"the maps differ by {error.tolist()} of their largest entries")
    ratio, other = _kept(first), _kept(second)
    apart = (ratio - other).abs() / ratio.abs().clamp(min=1)
    require(
        bool((apart <= 1e-7).all()), f"conservation: {ratio.tolist()} and {other.tolist()} of the relevance is kept"
    )
    return Worst(float(error.max()), float(apart.max()))


def _rounding(case: Spelled) -> Tensor:
    """How far each map (N, K) moves when images and weights move by a few units in the last place."""
    generator = torch.Generator().manual_seed(0)

    def nearby(value: Tensor) -> Tensor:
        signs = torch.randint(0, 2, value.shape, generator=generator).to(value.dtype) * 2 - 1
        return value * (1 + 1e-15 * signs) if value.is_floating_point() else value

    def once() -> Spelled:
        weights = {name: nearby(weight) for name, weight in case.weights.items()}
        return replace(case, images=nearby(case.images), weights=weights)

    maps = case.streams().maps
    return torch.stack([largest(once().streams().maps - maps) for _ in range(4)]).amax(0)


def _kept(case: Spelled) -> Tensor:
    """The relevance at the images as a part of that at the heads, by exact division: (K, N)."""
    streams = case.streams(EXACT)
    total = streams.relevance[case.canonical.images.name].flatten(2).sum(2)
    heads = [name for name in streams.handed["relevance"] if name not in streams.relevance]
    initial = sum(
        phi.flatten(2).sum(2) for name in heads for phi in streams.handed["relevance"][name] if phi is not None
    )
    return torch.where(initial.abs() > 1e-12, total / initial, 1.0)


def _report(pair: Pair, error: Exception) -> str:
    steps = "\n".join(f"  {first}\n  {second}\n" for first, second in pair.spelled)
    return (
        f"pair {pair.seed}: {type(error).__name__}: {error}\n\nspelled twice:\n{steps}\n"
        f"--- first ---\n{pair.first}\n--- second ---\n{pair.second}"
    )
