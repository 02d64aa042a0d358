"""The networks under test, their explainers, and what it takes to make those."""

from __future__ import annotations

import functools
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision
from benchmark.timing import timed
from torch import Tensor, nn

import agf_fx
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.options import AGFOptions, CompileOptions
from agf_fx.pipeline import lower

OWN = "model"  # the precision of the model itself
ALIASES = frozenset((torch.ops.aten.reshape.default, torch.ops.aten.permute.default))


@dataclass(frozen=True)
class Variant:
    """One way of running the explanation graph."""

    backend: str
    precision: str


@dataclass(frozen=True)
class Settings:
    """What is measured; see the options of tools/bench. ``turn`` is in seconds."""

    models: tuple[str, ...]
    batches: tuple[int, ...]
    targets: tuple[int, ...]
    backends: tuple[str, ...]
    precisions: tuple[str, ...]
    size: int
    repeats: int
    turn: float
    starts: int
    peers: list[str] | None
    memory: bool
    device: torch.device
    options: CompileOptions

    @property
    def variants(self) -> list[Variant]:
        """All backends in all precisions."""
        return [Variant(backend, precision) for precision in self.precisions for backend in self.backends]


@dataclass
class Subject:
    """A network with random weights, and its explainers, made when they are first asked for.

    Attributes:
        name: torchvision's name of it.
        settings: what is measured.
        make_s: seconds of ``agf_fx.compile`` for every variant: capture, lowering, and no call yet.
    """

    name: str
    settings: Settings
    make_s: dict[Variant, float] = field(default_factory=dict)
    _explainers: dict[Variant, agf_fx.Explainer] = field(default_factory=dict)

    @functools.cached_property
    def model(self) -> nn.Module:
        """The network, in evaluation mode on the device; seed 0."""
        torch.manual_seed(0)
        return torchvision.models.get_model(self.name, weights=None).eval().to(self.settings.device)

    def images(self, count: int) -> Tensor:
        """Random images (count, 3, size, size)."""
        size, generator = self.settings.size, torch.Generator().manual_seed(count)
        return torch.randn(count, 3, size, size, generator=generator).to(self.settings.device)

    def targets(self, count: int, each: int) -> Tensor:
        """The classes 0 … each-1 for every image, (count, each)."""
        return torch.arange(each, device=self.settings.device).expand(count, each).contiguous()

    def explainer(self, variant: Variant) -> agf_fx.Explainer:
        """The explainer of a variant."""
        if variant not in self._explainers:
            started = time.perf_counter()
            self._explainers[variant] = agf_fx.compile(
                self.model,
                self.images(1),
                backend=variant.backend,
                precision=None if variant.precision == OWN else variant.precision,
                compile_options=self.settings.options,
            )
            self.make_s[variant] = time.perf_counter() - started
        return self._explainers[variant]


def setup(subject: Subject) -> dict[str, Any]:
    """Seconds and node counts on the way from the model to its explanation graph, nothing cached."""
    example = subject.images(1)
    started = time.perf_counter()
    canonical = agf_fx.capture(subject.model, example)
    captured = time.perf_counter()
    clock = StepClock()
    explanation = lower(canonical, attribution_guided_factorization(AGFOptions()), clock)
    names = [name for name, _, _ in clock.steps]
    emission = names.index("emit")
    return {
        "network": subject.name,
        "capture_s": captured - started,
        "analyses_s": clock.total(0, emission),
        "emission_s": clock.total(emission, emission + 1),
        "passes_s": clock.total(emission + 1, len(names)),
        "steps": [{"step": name, "s": seconds, "nodes": nodes} for name, seconds, nodes in clock.steps],
        "canonical_nodes": len(canonical.graph.nodes),
        "nodes_emitted": clock.steps[emission][2],
        "nodes": len(explanation),
        "prepare_nodes": len(explanation.prepare.graph.nodes) if explanation.prepare else 0,
        **preparation(subject),
    }


class StepClock:
    """Called after every step of the pipeline: (name, seconds, nodes behind it)."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float, int]] = []
        self._before = time.perf_counter()

    def __call__(self, name: str, graph: CanonicalGraph | ExplanationGraph) -> None:
        """Take the time of a step."""
        now = time.perf_counter()
        self.steps.append((name, now - self._before, len(graph.graph.nodes)))
        self._before = time.perf_counter()

    def total(self, first: int, last: int) -> float:
        """Seconds of the steps first … last - 1."""
        return sum(seconds for _, seconds, _ in self.steps[first:last])


def preparation(subject: Subject, repeats: int = 3) -> dict[str, Any]:
    """Seconds of the weight-only work, done once per set of weights, and the bytes it keeps besides the weights."""
    bound = subject.explainer(Variant("eager", OWN))._captured()

    def prepare() -> list[Tensor]:
        bound.weights.forget()
        return bound.inputs(subject.model)

    own = {tensor.untyped_storage().data_ptr() for tensor in subject.model.state_dict().values()}
    kept = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in prepare()}
    return {
        "prepare_s": statistics.median(timed(prepare, subject.settings.device) for _ in range(repeats)),
        "prepared_bytes": sum(size for address, size in kept.items() if address not in own),
        "weight_bytes": sum(tensor.nbytes for tensor in subject.model.state_dict().values()),
    }


def kept_alive_bytes(canonical: CanonicalGraph, images: int, targets: int) -> int:
    """Bytes if every activation of a batch, and for each target its gradient and relevance, were alive at once.

    Views (reshapes, permutations) own no memory and are not counted.
    """
    entries = 0
    for node in canonical.graph.nodes:
        kind = node.meta.get("type")
        if node.meta.get("depends_on_images") and not isinstance(kind, tuple | None) and node.target not in ALIASES:
            entries += kind.sample_size * kind.dtype.itemsize
    return images * (1 + 2 * targets) * entries
