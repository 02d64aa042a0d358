"""The explainer: compile once, then explain batches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from agf_fx.ambient import check_concrete, shielded
from agf_fx.errors import InputError, OptionsError, PicklingError, TargetError
from agf_fx.frontend.examples import further_inputs, only_batch
from agf_fx.frontend.outputs import Output
from agf_fx.frontend.wrappers import unwrapped
from agf_fx.inspect.conservation import ConservationReport
from agf_fx.inspect.difference import GraphDifference
from agf_fx.inspect.layer_maps import LayerMaps, displayed, map_alone, why_not_at_layers
from agf_fx.inspect.precision import relative_difference
from agf_fx.inspect.stages import Stages
from agf_fx.ir.cost_model import Cost
from agf_fx.ir.graph import LayerOutput
from agf_fx.methods.meta import MetaOptions
from agf_fx.methods.method import Method
from agf_fx.options import CompileOptions
from agf_fx.rules.targets import explained_classes
from agf_fx.runtime import keys
from agf_fx.runtime.binding import Binding, Bound
from agf_fx.runtime.compiled_graph import CompiledGraph
from agf_fx.runtime.degenerate import warn_of_degenerate, warn_outside
from agf_fx.runtime.explanation import Explanation
from agf_fx.runtime.inputs import as_batch, check_images, maps_as_asked, requested_targets
from agf_fx.runtime.inspection import Inspection
from agf_fx.runtime.layers import layer_outputs, with_layers
from agf_fx.runtime.precision import warn_of_rounding
from agf_fx.runtime.recipe import Recipe
from agf_fx.runtime.stepping import explained_with
from agf_fx.store.counters import Counters

if TYPE_CHECKING:
    from agf_fx.inspect.diagnosis import Diagnosis
    from agf_fx.runtime.planning import Plan
    from agf_fx.runtime.sizes import CostBySize


def compile(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor] | None = None,
    *,
    method: str | Method | MetaOptions = "agf",
    options: Any = None,
    backend: str = "eager",
    precision: str | None = None,
    compile_options: CompileOptions | None = None,
    output: Output = None,
    unknown_ops: str = "refuse",
    channel_dim: int | str | None = "auto",
) -> Explainer:
    """Compile a classifier into an explainer.

    The model is not touched. What depends on its weights alone is prepared once, and again after a weight has changed.

    Args:
        model: an unmodified classifier, images (N, C, H, W) -> logits (N, classes). ``torch.compile``, DataParallel and
            DistributedDataParallel around it are taken off. One in float16 or bfloat16 takes images of its dtype and is
            explained in float32: its weights as they are, all arithmetic, maps and logits in float32.
        example_inputs: an image batch to capture with now; without it, the first batch is used. Another image size
            later is captured when it comes.
        method: the name of a method: ``"agf"`` (Attribution Guided Factorization), or another one in
            ``agf_fx.methods.REGISTRY``; underscores are read as hyphens. Or a `agf_fx.methods.method.Method` of your
            own, of which nothing is kept in the caches. Or ``agf_fx.meta(...)`` of one of these.
        options: of the method: an instance of its class of options, or a mapping such as ``{"epsilon": 0.1}``; its
            defaults if not given.
        backend: ``"eager"`` runs the graph operation by operation. ``"inductor"`` compiles it for the device at the
            first call, which takes about a minute for a ResNet-50; one compilation serves every number of images and
            targets. ``"cudagraphs"`` records CUDA graphs, one for each number of images and targets. ``"auto"``:
            inductor on a CUDA device with Triton, else eager; ``explainer.backend`` says which.
        precision: ``"float64"``, ``"float32"``, ``"tf32"``, ``"bfloat16"`` or ``"float16"``; by default the model's
            own. float32 has all of its bits on a CUDA device, too: TF32, which PyTorch allows cuDNN by default, is off
            while a graph runs. ``"tf32"`` is float32 with products in TF32 where PyTorch's settings allow it
            (``torch.backends``), which is faster and may change maps by tens of percent. In the last two, the
            convolutions and matrix products of relevances and gradients are computed in that precision; the forward
            pass, reductions, divisions and everything else in float32.
        compile_options: how the graph is run: pieces, memory format, and where compiled graphs are kept.
        output: which part of the model's return value holds the logits; see `agf_fx.capture`.
        unknown_ops: what to do about operations without a rule; see `agf_fx.capture`.
        channel_dim: which dimension of the images maps sum over: a number, None for a map of every entry, or
            ``"auto"``, as the model's first layers read them: 1 for (N, C, H, W), 3 for a model that takes
            (N, H, W, C), 2 for one that takes views (N, V, C, H, W), none for one that takes grey images (N, H, W).

    Raises:
        OptionsError: unknown method, option, backend or precision.
        CaptureError, UnsupportedOpError, InputError: see `agf_fx.capture`; at once if ``example_inputs`` is given.
    """
    running = CompileOptions() if compile_options is None else compile_options
    if not isinstance(running, CompileOptions):
        raise OptionsError(f"compile_options is a {type(running).__name__}; give agf_fx.CompileOptions(...).")
    recipe = Recipe(method, options, backend, precision, running, output, unknown_ops, channel_dim)
    explainer = Explainer(unwrapped(model), recipe)
    if example_inputs is not None:
        explainer.prepare(example_inputs)
    return explainer


class Explainer:
    """A compiled explanation of one model. Make one with `agf_fx.compile`.

    Call it with images to get heat maps; `explain` also returns targets and logits; `graph` is the computation.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.method = recipe.name
        self.output = recipe.output
        self.counters = Counters()
        self._recipe = recipe
        self._rules = recipe.made
        self._binding = Binding(model, recipe, self._rules, self.counters)
        self._twin: Explainer | None = None  # the same in float64, once somebody asks for it
        self._readers: dict[tuple[LayerOutput, ...], Explainer] = {}  # the same that also read layers

    @property
    def model(self) -> nn.Module:
        """The model that is explained."""
        return self._binding.model

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
        return maps_as_asked(self.explain(images, target).maps, target)

    def explain(
        self,
        images: Tensor,
        target: int | Sequence[int] | Tensor | None = None,
        *,
        top_k: int | None = None,
        check: bool = False,
        layers: Sequence[str] | None = None,
        quantities: Sequence[str] | None = None,
    ) -> Explanation:
        """Explain a batch; like a call, and with the targets and logits.

        Args:
            images: as for a call.
            target: as for a call.
            top_k: explain the k highest-scoring classes of each image instead; excludes ``target``.
            check: also compute every map in float64, eagerly, and say in ``precision`` how far the maps are from that;
                with a warning beyond 1e-3. Takes a compilation for float64 once, and then two to three times as long
                as without.
            layers: paths of modules, such as ``["layer2.0", "layer4"]``, whose outputs the result also describes:
                ``result.layers["layer4"]``. ``"layer4.0.relu#2"`` is the second call of a module. One compilation for
                each choice of layers and quantities.
            quantities: what of these outputs: ``"relevance"``, ``"gradient"`` or ``"value"``, one or several; the
                relevance, or the gradient of a method without relevance, if not given.

        Returns:
            maps (N, K, H, W), target (N, K), logits (N, classes) and the images; with ``check`` precision (N, K).

        Raises:
            InputError, NonFiniteInputError, TargetError: bad images or targets.
            OptionsError: an unknown layer or quantity, or the method has none of it there.
        """
        images = as_batch(images)
        check_concrete(images)
        wanted = layer_outputs(self._rules, layers, quantities)
        with shielded():
            return (self._reading(wanted) if wanted else self)._explain(images, target, top_k, check)

    def _reading(self, wanted: tuple[LayerOutput, ...]) -> Explainer:
        """An explainer of the same model that also reads layers."""
        found = self._readers.get(wanted)
        if found is None or found.model is not self.model:
            found = self._readers[wanted] = Explainer(self.model, replace(self._recipe, layers=wanted))
        return found

    def _explain(
        self, images: Tensor, target: int | Sequence[int] | Tensor | None, top_k: int | None, check: bool
    ) -> Explanation:
        bound, weights, codes = self._request(images, target, top_k)
        program = bound.program
        maps, logits, *further = explained_with(program, self._rules, images, codes, weights, bound.weights)
        warn_of_degenerate(maps, logits, self._rules.blank, self._rules.not_finite)
        warn_outside(images, self._rules.bounds)
        result = Explanation(maps, explained_classes(logits, codes), logits, images)
        if further:
            result = with_layers(result, program.explanation.canonical, self._recipe.layers, further)
        if not check:
            return result
        classes = torch.where(codes < 0, result.target, codes)  # in float64 other classes may be the highest-scoring
        precision = relative_difference(maps, self._in_float64(images, classes))
        warn_of_rounding(precision, self._rules.rounding)
        return replace(result, precision=precision)

    def _in_float64(self, images: Tensor, codes: Tensor) -> Tensor:
        """The maps (N, K, *spatial) of target codes (N, K), in float64."""
        twin = self._twin
        if twin is None or twin.model is not self.model:
            recipe = replace(self._recipe, backend="eager", precision="float64", layers=())
            twin = self._twin = Explainer(self.model, recipe)
        bound = twin._binding.of(images)
        weights = bound.weights.current(twin.model)
        return explained_with(bound.program, twin._rules, images, codes, weights, bound.weights)[0]

    def prepare(self, example_inputs: Tensor | tuple[Tensor]) -> Explainer:
        """Capture and compile for the image size of ``example_inputs`` now; returns the explainer itself.

        Raises:
            CaptureError, UnsupportedOpError, InputError: see `agf_fx.capture`.
        """
        self._binding.of(only_batch(example_inputs, self.model))
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
            OptionsError: the method has no relevance, or is meta-saliency, which has other weights for each map.
            InputError, NonFiniteInputError, TargetError: bad images or targets.
        """
        return self._inspection.conservation(images, target, top_k)

    def diagnose(
        self, images: Tensor, target: int | Sequence[int] | Tensor | None = None, *, top_k: int | None = None
    ) -> Diagnosis:
        """Why maps are blank, noisy, the same for all classes, a grid, or different in float64: ``print`` it.

        Every map is asked the same questions, by numbers with limits that maps of healthy networks stay below. A
        finding says where it begins on the way from the logits to the pixels, and what to do; what could not be
        checked is listed with the reason. Takes two maps more for each, of other classes, and one in float64; walks
        through the layers, which keep every relevance in memory, only where something is found.

        Args:
            images, target, top_k: as for `explain`.

        Returns:
            A diagnosis of each image and target, images first.

        Raises:
            InputError, NonFiniteInputError, TargetError: bad images or targets.
            OptionsError: both ``target`` and ``top_k``.
        """
        return self._inspection.diagnose(images, target, top_k)

    def to_html(
        self,
        path: str | os.PathLike[str],
        image: Tensor | None = None,
        target: int | None = None,
        *,
        pixels: Any = None,
        class_names: Sequence[str] | None = None,
        title: str | None = None,
        against: Explainer | None = None,
    ) -> None:
        """Write the explanation graph as a page for browsers: one file, which needs no other and no network.

        Args:
            path: the file, which appears whole or not at all.
            image: (1, C, H, W), to show its relevance at every layer, and where the sum changes; or its gradient, for
                methods without relevance. Explained rule by rule, which keeps all of it in memory. Of methods that
                have no one map at a layer, as they look at an image many times, the map is shown alone.
            target: class to explain; None for the top class.
            pixels: (H, W, 3) uint8, to show beside the maps; by default the image itself, where it has colours.
            class_names: of the model, to name the target.
            title: what the model is called; by default its class.
            against: another explainer of the same model, to mark how this graph differs from its; see `difference`.

        Raises:
            InputError: nothing has been captured yet, or ``image`` is not one image.
            TargetError: no such class.
        """
        found = shown = others = differs = None
        if image is not None:
            found, shown = self._at_layers(as_batch(image), target), displayed(as_batch(image), pixels)
            target = found.target
            others = None if against is None else against._at_layers(as_batch(image), target)
        if against is not None:
            walked = not (why_not_at_layers(self._rules) or why_not_at_layers(against._rules))
            differs = against.difference(self, image if walked else None, target if walked else None)
        title = f"{title or self.graph.canonical.name} by {self._recipe.in_words}"
        named = {"pixels": shown, "class_names": class_names, "title": title}
        self.graph.to_html(path, found, **named, difference=differs, others=others)

    def _at_layers(self, image: Tensor, target: int | None) -> LayerMaps:
        """What one image looks like at every layer; its map alone, where layers have none."""
        if len(image) == 1 and why_not_at_layers(self._rules):
            alone = self.explain(image, target)
            return map_alone(self._rules, alone.maps, alone.target, alone.logits)
        return self._inspection.at_layers(image, target)

    def difference(self, other: Explainer, image: Tensor | None = None, target: int | None = None) -> GraphDifference:
        """How the explanation graph of another explainer differs from this one's: ``print`` it.

        Operations added, removed and changed, layer by layer; and, with an image, where the relevances part on the
        way from the logits to the pixels: rule by rule, in the precision of the explainers. In float32 they are said
        to part from a relative difference of 1e-3 on; ``precision="float64"`` tells rounding from rules.

        Args:
            other: of the same model by another method or other options, or of another model.
            image: (1, C, H, W), for both explainers.
            target: class to explain; None for the top class of this explainer.

        Raises:
            InputError: one of them has not captured anything yet, or ``image`` is not one image.
            OptionsError: with an image: a method looks at every image many times, or the models are different ones.
            TargetError: no such class.
        """
        from agf_fx.runtime.differences import between

        return between(self, other, image, target)

    @property
    def _inspection(self) -> Inspection:
        return Inspection(self.model, self._recipe, self._rules, self._request, self._in_float64)

    def _request(
        self, images: Tensor, target: int | Sequence[int] | Tensor | None, top_k: int | None
    ) -> tuple[Bound, dict[str, Tensor], Tensor]:
        """The checked program, weights and target codes of a call."""
        binding = self._binding  # `bind` may replace it while this call runs
        bound = binding.of(images)
        canonical = bound.program.canonical
        weights = bound.weights.current(binding.model)
        check_images(images, canonical, weights.values())
        try:
            codes = requested_targets(target, top_k, images, canonical.num_classes, canonical.positions)
        except TargetError as error:
            raise _of_other_input(error, binding.model) from None
        return bound, weights, codes

    @shielded()
    def bind(self, model: nn.Module) -> Explainer:
        """Explain another model of the same architecture from now on: only its weights are prepared.

        Calls that are under way in other threads end with the model that they began with.

        Args:
            model: such as a fine-tuned or re-randomised copy.

        Returns:
            The explainer itself. For an explainer beside it, call `agf_fx.compile` with the model: it finds the
            compiled graphs in the cache.

        Raises:
            ArchitectureError: the model is of another architecture; the explainer is as it was.
            CaptureError: the model is none that can be captured.
        """
        self._binding = self._binding.rebound(unwrapped(model))
        return self

    def forget_weights(self) -> None:
        """Prepare the weights anew at the next call.

        Needed after an edit of a few entries of a large weight that bypasses PyTorch's version counters, as
        ``weight.data[0, 0] = 2`` does; every other change is noticed.
        """
        self._binding.forget_weights()
        self._twin = None

    @property
    def graph(self) -> CompiledGraph:
        """The explanation graph for the image size used last: ``print`` it, ``.to_html(path)``, ``.cost()``.

        Raises:
            InputError: nothing has been captured yet.
        """
        return CompiledGraph.of(self._captured().program, self._rules)

    def cost(
        self,
        N: int | None = None,
        K: int | None = None,
        S: int | None = None,
        *,
        depth: int | None = None,
    ) -> Cost:
        """What an explanation costs: operations, bytes moved and peak memory, as expressions or numbers.

        Of the image size used last, which is part of the numbers; see `agf_fx.ir.cost_model.Cost`.

        Args:
            N: images; what is not given stays a symbol.
            K: targets of each image.
            S: points, of methods that look at several for each image; by default as many as the method has.
            depth: modules so deep are one row of ``cost.layers`` each; None: a row for every call of the model.

        Raises:
            InputError: nothing has been captured yet.
            OptionsError: a number is not a whole number above 0.
        """
        return self._inspection.cost(self._captured().program, N, K, S, depth)

    @shielded()
    def cost_by_size(self, multiple: int = 32) -> CostBySize:
        """Operations and bytes moved as expressions in the size of the images as well: H and W of pictures.

        The model is compiled for a few sizes, which takes seconds each.

        Args:
            multiple: the expressions are of sizes that are multiples of this number, which all strides together should
                divide.

        Raises:
            CaptureError: the model does not take images of other sizes.
            InputError: nothing has been captured yet.
            OptionsError: the cost is no polynomial in the size at such multiples.
        """
        return self._inspection.cost_by_size(self._captured().program, multiple)

    def plan(self, memory: int | str, K: int = 1, *, calibrate: bool = True) -> Plan:
        """The largest batch that is explained at once in so much memory, and the time it takes on this machine.

        Args:
            memory: bytes, or in words as ``"16GB"``; weights, images and results are part of it.
            K: targets of each image.
            calibrate: time explanations of one and of a few random images, which takes seconds.

        Raises:
            InputError: nothing has been captured yet.
            MemoryLimitError: not even one image fits.
            OptionsError: no size of memory, or no number of targets.
        """
        return self._inspection.plan(self._captured().program, memory, K, self.explain if calibrate else None)

    def stages(self) -> Stages:
        """The model's graph at every stage of the compiler, for the image size used last; see there.

        Raises:
            InputError: nothing has been captured yet.
        """
        return self._inspection.stages(self._captured().program)

    @shielded()
    def export(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
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
            format: by default as the ending says: .pt TorchScript, .pt2 torch.export, .onnx ONNX.
                ``"torchscript"`` (for ``torch.jit.load`` and C++), ``"export"`` (for ``torch.export.load``),
                ``"aoti"`` (compiled for this kind of machine; Python and C++) or ``"onnx"``.
            class_names: one for each class, kept in the file's metadata.
            preprocessing: how a picture becomes an input, a `Preprocessing` or a dictionary, kept there too.

        Raises:
            ExportError: unknown format, the file cannot be written, or the format cannot express the explainer.
            InputError: nothing has been captured yet.
            MissingDependencyError: a package that the format needs is not installed.
            OptionsError: another number of class names than classes.
        """
        from agf_fx.runtime.exporting import export

        bound = self._captured()
        program = bound.program
        current = bound.weights.current(self.model)
        export(
            program.canonical,
            self._rules,
            {name: program.placement.cast(weight.detach()) for name, weight in current.items()},
            path,
            format,
            fingerprint=program.key,
            options={**self._recipe.described()["options"], "precision": self._recipe.precision},
            precision=self._recipe.precision,
            class_names=class_names,
            preprocessing=preprocessing,
        )

    def _captured(self) -> Bound:
        latest = self._binding.latest
        if latest is None:
            raise InputError(
                "the image size is not known yet: explain a batch first, or call agf_fx.compile(model, example_batch)."
            )
        return latest

    @property
    def fingerprint(self) -> str:
        """What identifies architecture, image size, method and options: equal for models that share compiled graphs.

        Of the image size used last; 64 hexadecimal digits, which change with the versions of PyTorch and agf-fx.

        Raises:
            InputError: nothing has been captured yet.
        """
        key, step = self._captured().program.key, self._rules.step
        return key if step is None else keys.digest(graph=key, step=str(step))

    def __reduce__(self) -> NoReturn:
        raise PicklingError(
            "an Explainer is not pickled or copied: it holds compiled code. Write it with explainer.export(path) and "
            "read it with agf_fx.load(path); or send the model, and call agf_fx.compile there: what this process has "
            "compiled is found in the cache on disk."
        )

    @property
    def backend(self) -> str:
        """What runs the graph: "eager", "inductor" or "cudagraphs"; for "auto", what it stands for on this device."""
        device = next((weight.device for weight in self.model.parameters()), torch.device("cpu"))
        return self._recipe.backend_on(device)

    def __repr__(self) -> str:
        sizes = ", ".join("x".join(map(str, size)) for size in self._binding.image_sizes) or "none yet"
        model, chosen = type(self.model).__name__, self._recipe.backend
        backend = f"{chosen!r}" if chosen == self.backend else f"{chosen!r} ({self.backend})"
        return f"Explainer({model}, method={self.method!r}, backend={backend}, image sizes: {sizes})"


def _of_other_input(error: TargetError, model: nn.Module) -> TargetError:
    """The error, and what a user may have meant who gave the model's second input."""
    others = further_inputs(model)
    if not others:
        return error
    return TargetError(
        f"{error} The second argument of an explainer is the class to explain; inputs of the model besides the images "
        f"({', '.join(map(repr, others))} of {type(model).__name__}.forward) cannot be given. Wrap the model in a "
        "module that supplies them."
    )
