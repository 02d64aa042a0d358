"""The explainer: compile once, then explain batches."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from agf_fx.errors import InputError, OptionsError
from agf_fx.frontend.capture import UNKNOWN_OPS, capture
from agf_fx.frontend.outputs import Output, check_output
from agf_fx.frontend.wrappers import unwrapped
from agf_fx.ir.graph import ExplanationGraph
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.methods.gradient import gradient_times_input
from agf_fx.methods.method import Method
from agf_fx.options import BACKENDS, PRECISIONS, AGFOptions, CompileOptions, require_one_of
from agf_fx.pipeline import lower, optimisations
from agf_fx.rules.targets import explained_classes
from agf_fx.runtime.backends import choose
from agf_fx.runtime.conservation import ConservationReport, conservation
from agf_fx.runtime.explanation import Explanation
from agf_fx.runtime.inputs import best, check_images, check_target, check_top_k
from agf_fx.runtime.program import Program
from agf_fx.runtime.weights import REDUCED, place

METHODS = ("agf", "gradient_x_input")


class DegenerateMapWarning(UserWarning):
    """A heat map says nothing: it is zero everywhere, or contains NaN or infinite values."""


def compile(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor] | None = None,
    *,
    method: str = "agf",
    options: AGFOptions | None = None,
    backend: str = "eager",
    precision: str | None = None,
    compile_options: CompileOptions | None = None,
    output: Output = None,
    unknown_ops: str = "refuse",
) -> Explainer:
    """Compile a classifier into an explainer.

    The model is not touched. What depends on its weights alone is prepared once, and again after a weight has changed.

    Args:
        model: an unmodified classifier, images (N, C, H, W) -> logits (N, classes). ``torch.compile``, DataParallel and
            DistributedDataParallel around it are taken off. One in float16 or bfloat16 takes images of its dtype and is
            explained in float32: its weights as they are, all arithmetic, maps and logits in float32.
        example_inputs: an image batch to capture with now; without it, the first batch is used. Another image size
            later is captured when it comes.
        method: ``"agf"`` (Attribution Guided Factorization) or ``"gradient_x_input"``.
        options: options of the method; AGFOptions() by default.
        backend: ``"eager"`` runs the graph operation by operation. ``"inductor"`` compiles it for the device at the
            first call, which takes about a minute for a ResNet-50; one compilation serves every number of images and
            targets. ``"cudagraphs"`` records CUDA graphs, one for each number of images and targets. ``"auto"``:
            inductor on a CUDA device with Triton, else eager; ``explainer.backend`` says which.
        precision: ``"float64"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``; by default the model's own. In the
            last two, the convolutions and matrix products of relevances and gradients are computed in that precision;
            the forward pass, reductions, divisions and everything else in float32.
        compile_options: how the graph is run: pieces, memory format.
        output: which part of the model's return value holds the logits; see `agf_fx.capture`.
        unknown_ops: what to do about operations without a rule; see `agf_fx.capture`.

    Raises:
        OptionsError: unknown method, backend or precision, or options that do not belong to it.
        CaptureError, UnsupportedOpError, InputError: see `agf_fx.capture`; at once if ``example_inputs`` is given.
    """
    model = unwrapped(model)
    require_one_of("backend", backend, BACKENDS)
    require_one_of("unknown_ops", unknown_ops, UNKNOWN_OPS)
    check_output(output)
    if precision is not None:
        require_one_of("precision", precision, PRECISIONS)
    execution = Execution(backend, precision, compile_options or CompileOptions())
    explainer = Explainer(model, _method(method, options), execution, output, unknown_ops)
    if example_inputs is not None:
        explainer.prepare(example_inputs)
    return explainer


def _method(name: str, options: AGFOptions | None) -> Method:
    if name == "agf":
        return attribution_guided_factorization(options or AGFOptions())
    if name == "gradient_x_input":
        if options is not None:
            raise OptionsError("gradient_x_input has no options; leave options=None.")
        return gradient_times_input()
    raise OptionsError(f"no method {name!r}; choose one of {', '.join(map(repr, METHODS))}.")


@dataclass(frozen=True)
class Execution:
    """How the graphs of an explainer are run; see `compile`."""

    backend: str = "eager"
    precision: str | None = None
    options: CompileOptions = field(default_factory=CompileOptions)


class Explainer:
    """A compiled explanation of one model. Make one with `agf_fx.compile`.

    Call it with images to get heat maps; `explain` also returns targets and logits; `graph` is the computation.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        execution: Execution,
        output: Output = None,
        unknown_ops: str = "refuse",
    ) -> None:
        self.model = model
        self.output = output
        self._unknown_ops = unknown_ops
        self.method = method.name
        self._method = method
        self._execution = execution
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._latest: Program | None = None
        self._lock = threading.Lock()

    def __call__(self, images: Tensor, target: int | Sequence[int] | Tensor | None = None) -> Tensor:
        """Heat maps of a batch.

        Args:
            images: (N, C, H, W), floating, finite, on the device and of the dtype of the model.
            target: class to explain: an int for all images, (N,) one per image, (N, K) several per image (int64
                tensor, array or nested lists of ints); None for each image's top class. For a model with logits
                (N, classes, *positions), a class is explained on average over positions, and (N, K, 1 + d) names a
                class and its place, such as class, row, column.

        Returns:
            Signed relevance, in the images' dtype, or float32 where that or ``precision`` is shorter: (N, H, W), or
            (N, K, H, W) for targets (N, K). Each map is scaled so that its image's largest input relevance is 1 before
            summing over channels (AGF).

        Raises:
            InputError, NonFiniteInputError, TargetError: bad images or targets.
        """
        result = self.explain(images, target)
        several = target is not None and torch.as_tensor(target).dim() >= 2
        return result.maps if several else result.maps[:, 0]

    def explain(
        self, images: Tensor, target: int | Sequence[int] | Tensor | None = None, *, top_k: int | None = None
    ) -> Explanation:
        """Explain a batch; like a call, and with the targets and logits.

        Args:
            images: as for a call.
            target: as for a call.
            top_k: explain the k highest-scoring classes of each image instead; excludes ``target``.

        Returns:
            maps (N, K, H, W), target (N, K), logits (N, classes) and the images.

        Raises:
            InputError, NonFiniteInputError, TargetError: bad images or targets.
        """
        program, weights, codes = self._request(images, target, top_k)
        maps, logits = program.run(images, codes, program.weights.prepared(weights, program.placement))
        _warn_of_degenerate(maps)
        return Explanation(maps, explained_classes(logits, codes), logits, images)

    def prepare(self, example_inputs: Tensor | tuple[Tensor]) -> Explainer:
        """Capture and compile for the image size of ``example_inputs`` now; returns the explainer itself.

        Raises:
            CaptureError, UnsupportedOpError, InputError: see `agf_fx.capture`.
        """
        images = example_inputs[0] if isinstance(example_inputs, tuple | list) else example_inputs
        self._program_for(images)
        return self

    def conservation(
        self, images: Tensor, target: int | Sequence[int] | Tensor | None = None, *, top_k: int | None = None
    ) -> ConservationReport:
        """Where relevance is conserved, created or lost: ``print`` it.

        Rule by rule on the given images, which keeps every relevance in memory; for looking into a few of them. With
        ``AGFOptions(division="exact")`` the rules conserve what they promise to the precision of the dtype.

        Args:
            images, target, top_k: as for `explain`.

        Raises:
            OptionsError: the method has no relevance.
            InputError, NonFiniteInputError, TargetError: bad images or targets.
        """
        if self._method.initial_relevance is None:
            raise OptionsError(f"{self.method} is read off the gradient and has no relevance to conserve.")
        program, weights, codes = self._request(images, target, top_k)
        return conservation(program.canonical, self._method, images, codes, weights)

    def _request(
        self, images: Tensor, target: int | Sequence[int] | Tensor | None, top_k: int | None
    ) -> tuple[Program, dict[str, Tensor], Tensor]:
        """The checked program, weights and target codes of a call."""
        if target is not None and top_k is not None:
            raise OptionsError("give target or top_k, not both.")
        program = self._program_for(images)
        weights = program.weights.current(self.model)
        check_images(images, program.canonical, weights.values())
        classes = program.canonical.num_classes
        if target is None:
            return program, weights, best(check_top_k(top_k, classes), images)
        return program, weights, check_target(target, images, classes, program.canonical.positions)

    def forget_weights(self) -> None:
        """Prepare the weights anew at the next call.

        Needed after an edit that bypasses PyTorch's version counters, as ``parameter.data.mul_(2)`` does; every other
        change is noticed.
        """
        for program in self._programs.values():
            program.weights.forget()

    @property
    def graph(self) -> ExplanationGraph:
        """The explanation graph for the image size used last.

        Raises:
            InputError: nothing has been captured yet.
        """
        return self._captured().explanation

    def export(
        self,
        path: str | os.PathLike[str],
        format: str = "torchscript",
        *,
        class_names: Sequence[str] | None = None,
        preprocessing: Any = None,
    ) -> None:
        """Write the explainer to a file that runs without agf-fx.

        The file holds the weights as they are now. It takes ``(images, target)``: images (N, C, H, W) of the image
        size used last, target int64 (N, K), where -1 stands for an image's highest-scoring class, -2 for the second,
        and so on; it returns ``(maps, logits)``: (N, K, H, W) and (N, classes). `agf_fx.load` reads it back.

        Args:
            path: the file to write; it appears whole or not at all.
            format: ``"torchscript"`` (for ``torch.jit.load`` and C++), ``"export"`` (for ``torch.export.load``),
                ``"aoti"`` (compiled for this kind of machine; Python and C++) or ``"onnx"``.
            class_names: one for each class, kept in the file's metadata.
            preprocessing: how a picture becomes an input, a `Preprocessing` or a dictionary, kept there too.

        Raises:
            ExportError: unknown format, the file cannot be written, or the format cannot express the explainer.
            InputError: nothing has been captured yet.
            MissingDependencyError: a package that the format needs is not installed.
            OptionsError: another number of class names than classes.
        """
        from agf_fx.runtime.exports.export import export

        program = self._captured()
        current = program.weights.current(self.model)
        export(
            program.canonical,
            self._method,
            {name: program.placement.cast(weight.detach()) for name, weight in current.items()},
            path,
            format,
            fingerprint="",
            options={},
            precision=self._execution.precision,
            class_names=class_names,
            preprocessing=preprocessing,
        )

    def _captured(self) -> Program:
        if self._latest is None:
            raise InputError(
                "the image size is not known yet: explain a batch first, or call agf_fx.compile(model, example_batch)."
            )
        return self._latest

    def _program_for(self, images: Tensor) -> Program:
        kind = (tuple(images.shape[1:]), images.dtype, images.device) if isinstance(images, Tensor) else ()
        program = self._programs.get(kind)
        if program is None:
            with self._lock:
                program = self._programs.get(kind) or self._compile(images)
                self._programs[kind] = program
        self._latest = program
        return program

    def _compile(self, images: Tensor) -> Program:
        precision, options = self._execution.precision, self._execution.options
        canonical = capture(self.model, images, output=self.output, unknown_ops=self._unknown_ops)
        backend = choose(self._execution.backend, images.device)
        placement = place(canonical.image_type.dtype, precision, options.memory_format, images.device)
        reduced, eager = REDUCED.get(precision), backend == "eager"
        steps = optimisations(reduced, channels_last=placement.channels_last, in_place=eager)
        explanation = lower(canonical, self._method, optimisations=steps)
        small_pieces = eager and images.device.type == "cpu"
        return Program(
            canonical, explanation, backend=backend, placement=placement, options=options, small_pieces=small_pieces
        )

    @property
    def backend(self) -> str:
        """What runs the graph: "eager", "inductor" or "cudagraphs"; for "auto", what it stands for on this device."""
        device = next((weight.device for weight in self.model.parameters()), torch.device("cpu"))
        return choose(self._execution.backend, device)

    def __repr__(self) -> str:
        sizes = ", ".join(dict.fromkeys("x".join(map(str, size)) for size, *_ in self._programs)) or "none yet"
        model, chosen = type(self.model).__name__, self._execution.backend
        backend = f"{chosen!r}" if chosen == self.backend else f"{chosen!r} ({self.backend})"
        return f"Explainer({model}, method={self.method!r}, backend={backend}, image sizes: {sizes})"


def _warn_of_degenerate(maps: Tensor) -> None:
    flat = maps.flatten(2)
    for bad, what in (
        (~torch.isfinite(flat).all(2), f"contain NaN or infinite values: the network overflows {maps.dtype} on them"),
        (
            (flat == 0).all(2),
            "are zero everywhere: the images are constant, or the logits lie so far apart that the "
            f"gradient of the score vanishes in {maps.dtype}",
        ),
    ):
        if bool(bad.any()):
            images = torch.nonzero(bad.any(1)).flatten().tolist()
            warnings.warn(
                f"maps of images {images} {what}. Check the preprocessing, or explain them in float64 "
                "(model.double(), images.double()).",
                DegenerateMapWarning,
                stacklevel=3,
            )
