"""From a model to a program, through the caches: what is known of an architecture is not computed again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from agf_fx.ambient import capturing
from agf_fx.errors import UnsupportedOpError
from agf_fx.frontend.baked import Places
from agf_fx.frontend.capture import Subject
from agf_fx.frontend.final import warn_of_final
from agf_fx.frontend.unknown import warn_of_captured
from agf_fx.ir import serial
from agf_fx.ir.checks import typed_like
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph, tensor_at
from agf_fx.ir.vocabulary import VOCABULARY
from agf_fx.methods.method import Method
from agf_fx.pipeline import analyse, canonise, check_needs, lower, optimisations
from agf_fx.rules.register import taught_operations
from agf_fx.runtime import keys
from agf_fx.runtime.arithmetic import warn_of_emulation
from agf_fx.runtime.collector import collector_waiting
from agf_fx.runtime.program import Program
from agf_fx.runtime.recipe import Recipe
from agf_fx.runtime.weights import Placement
from agf_fx.store.counters import Counters, count
from agf_fx.store.disk import Disk, Entry, folder
from agf_fx.store.locks import COMPILER
from agf_fx.store.memory import ARCHITECTURES, PROGRAMS

Architecture = tuple[CanonicalGraph, str]  # and what identifies it


@dataclass(frozen=True)
class Compiled:
    """A program, and what of the model it may contain.

    Attributes:
        program: the program.
        baked: where the model keeps tensors whose values the graph may contain.
    """

    program: Program
    baked: Places


def compiled(model: nn.Module, images: Tensor, recipe: Recipe, method: Method, counters: Counters) -> Compiled:
    """The program of a model for an image size.

    Args:
        model: the classifier.
        images: an example batch.
        recipe: what to compile to.
        method: the recipe's method.
        counters: which stages had to run.

    Raises:
        CaptureError, UnsupportedOpError, InputError: see `agf_fx.capture`. An operation without a relevance rule is
            refused to methods that would need one.
    """
    try:
        return _compiled(model, images, recipe, method, counters)
    except UnsupportedOpError as error:
        known = any(str(op) == error.op for op in VOCABULARY)
        if known or recipe.unknown_ops == "gradient" or not _derives(recipe.graphed.made):
            raise
    return _compiled(model, images, replace(recipe, unknown_ops="gradient"), method, counters, exactly=True)


def _derives(method: Method) -> bool:
    """Whether derivatives are all that a method asks of operations."""
    return all(stream.derives for stream in method.streams)


def _compiled(
    model: nn.Module, images: Tensor, recipe: Recipe, method: Method, counters: Counters, *, exactly: bool = False
) -> Compiled:
    """See `compiled`. ``exactly``: the gradient of operations without a rule is what the method asks for."""
    with COMPILER, capturing(), collector_waiting() as takes_long:
        subject = Subject.of(model, images, recipe.output, recipe.unknown_ops)
        graphed = recipe.graphed
        stages = _Stages(subject, graphed, graphed.made, counters, takes_long)
        trace = subject.digest()
        trace_key = trace and keys.digest(trace=trace)
        canonical, fingerprint = stages.architecture(trace_key)
        subject.warn()
        if not exactly:
            warn_of_captured(canonical)
        warn_of_final(canonical)
        if method.step is not None:
            check_needs(canonical, method)  # of the step, too, which the graph knows nothing of
        return Compiled(stages.program(canonical, fingerprint), subject.baked)


@dataclass(frozen=True)
class _Stages:
    """The stages of one compilation, each of which asks the caches first."""

    subject: Subject
    recipe: Recipe
    method: Method
    counters: Counters
    takes_long: Callable[[], None]  # called before work of seconds

    @property
    def _in_memory(self) -> bool:
        return self.recipe.compile_options.caching != "off"

    @functools.cached_property
    def _disk(self) -> Disk | None:
        return Disk(folder()) if self.recipe.compile_options.caching == "disk" else None

    def count(self, stage: str) -> Callable[[], None]:
        return functools.partial(count, stage, self.counters)

    def architecture(self, trace_key: str | None) -> Architecture:
        """The canonical graph; from the caches where the trace tells that it is known."""
        if trace_key is None or not self._in_memory:
            return self._capture()
        return ARCHITECTURES.get(trace_key, functools.partial(self._stored, trace_key), self.count("hits"))

    def _stored(self, trace_key: str) -> Architecture:
        if self._disk is None:
            return self._capture()
        return self._disk.fetch(trace_key, self._read, self._capture, _write_architecture, self.count("loads"))

    def _read(self, entry: Entry) -> Architecture:
        canonical = serial.read_canonical(entry.data["canonical"], entry.tensors)
        check_subject(canonical, self.subject.model, self.subject.images)
        return replace(canonical, analysed=True), keys.checked(entry.data["fingerprint"])

    def _capture(self) -> Architecture:
        self.takes_long()
        self.count("captures")()
        canonical = self.subject.capture()
        return analyse(canonical), keys.canonical_digest(canonical)

    def program(self, canonical: CanonicalGraph, fingerprint: str) -> Program:
        """The program of a canonical graph; from the caches where it is known."""
        canonical = canonise(canonical, self.method)
        device, options = self.subject.images.device, self.recipe.compile_options
        backend = self.recipe.backend_on(device)
        warn_of_emulation(self.recipe.reduced, device)
        placement = self.recipe.placement(canonical.image_type.dtype, device)
        eager = backend == "eager"
        key = keys.digest(
            architecture=fingerprint,
            recipe=self.recipe.described(),
            placement=str(placement),
            device=device.type,
            eager=eager,
        )

        def make() -> Program:
            explanation, emitted = self._explanation(key, canonical, placement, eager)
            if emitted or not eager:
                self.count("compilations")()
            explanation.infer_types()  # needs symbolic sizes, so not while others trace
            return Program(
                canonical,
                explanation,
                key=self._identified(key, canonical, explanation),
                backend=backend,
                placement=placement,
                options=options,
                small_pieces=eager and device.type == "cpu",
                on_cpu=device.type == "cpu",
                artefacts=self._disk and self._disk.writable_artefacts(),
            )

        if not self._in_memory or not self.recipe.is_known:
            return make()
        taught = tuple(taught_operations().items())
        return PROGRAMS.get((key, backend, str(device), options, taught), make, self.count("hits"))

    def _identified(self, key: str, canonical: CanonicalGraph, explanation: ExplanationGraph) -> str:
        """The key; of a method of the user's own, which its name does not identify, that of what it computes."""
        if not isinstance(self.recipe.method, Method):
            return key
        points = self.method.points
        weights = [] if points is None else points.on(canonical, self.method.channels_of(canonical))
        return keys.digest(recipe=key, graph=str(explanation), points=[point.weight for point in weights])

    def _explanation(
        self, key: str, canonical: CanonicalGraph, placement: Placement, eager: bool
    ) -> tuple[ExplanationGraph, bool]:
        """The explanation graph, and whether it had to be emitted."""
        emitted: list[ExplanationGraph] = []

        def emit() -> ExplanationGraph:
            self.takes_long()
            self.count("emissions")()
            dtype = None if placement.dtype == canonical.image_type.dtype else placement.dtype
            steps = optimisations(
                self.recipe.reduced, dtype=dtype, channels_last=placement.channels_last, in_place=eager
            )
            emitted.append(lower(canonical, self.method, optimisations=steps, layers=self.recipe.layers))
            return emitted[0]

        if self._disk is None or not self.recipe.is_known:
            return emit(), True

        def read(entry: Entry) -> ExplanationGraph:
            return serial.read_explanation(entry.data, canonical)

        found = self._disk.fetch(key, read, emit, _write_explanation, self.count("loads"))
        return found, bool(emitted)


def check_subject(canonical: CanonicalGraph, model: nn.Module, images: Tensor) -> None:
    """Check that a stored graph takes the images and the weights that are there.

    Raises:
        Unreadable: it does not.
    """
    image_type = canonical.image_type
    if image_type.sample_shape != tuple(images.shape[1:]) or image_type.dtype != images.dtype:
        raise serial.Unreadable(f"it takes images {image_type}")
    types = {node.name: node.meta["type"] for node in canonical.graph.find_nodes(op="placeholder")}
    for name, path in canonical.signature.weights.items():
        weight = tensor_at(model, path)
        if weight is None or not typed_like(types[name], weight):
            raise serial.Unreadable(f"the model has no {path} of type {types[name]}")


def _write_architecture(architecture: Architecture) -> Entry | None:
    canonical, fingerprint = architecture
    if _holds_taught(canonical):
        return None
    try:
        data, constants = serial.write_canonical(canonical)
    except serial.Unwritable:
        return None
    return Entry({"canonical": data, "fingerprint": fingerprint}, constants)


def _write_explanation(explanation: ExplanationGraph) -> Entry | None:
    if _holds_taught(explanation.canonical):
        return None
    try:
        return Entry(serial.write_explanation(explanation), {})
    except serial.Unwritable:
        return None


def _holds_taught(canonical: CanonicalGraph) -> bool:
    """Whether a graph uses a registered rule, whose code no key can stand for."""
    taught = taught_operations()
    return any(node.target in taught for node in canonical.calls)
