"""Looking into what an explainer has compiled: conservation, layers, stages, costs, plans and diagnoses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from agf_fx.ambient import capturing, check_concrete, shielded, without_tf32
from agf_fx.errors import InputError, OptionsError
from agf_fx.frontend.capture import Subject, capture
from agf_fx.inspect.conservation import ConservationReport, conservation
from agf_fx.inspect.layer_maps import LayerMaps, layer_maps
from agf_fx.inspect.stages import Stages
from agf_fx.ir.cost_model import Cost
from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.places import image_channel
from agf_fx.methods.method import Method
from agf_fx.pipeline import optimisations
from agf_fx.rules.site import RELEVANCE
from agf_fx.runtime.binding import Binding, Bound
from agf_fx.runtime.inputs import as_batch
from agf_fx.runtime.program import Program
from agf_fx.runtime.recipe import Recipe
from agf_fx.store.counters import Counters

if TYPE_CHECKING:
    from agf_fx.inspect.diagnosis import Diagnosis
    from agf_fx.runtime.explanation import Explanation
    from agf_fx.runtime.planning import Plan
    from agf_fx.runtime.sizes import CostBySize

Target = int | Sequence[int] | Tensor | None
Requested = Callable[[Tensor, Target, int | None], tuple[Bound, dict[str, Tensor], Tensor]]
"""(images, target, top_k) -> the checked program, weights and target codes of a call."""


@dataclass(frozen=True)
class Inspection:
    """What `agf_fx.runtime.explainer.Explainer` answers besides maps; see its methods of the same names.

    Attributes:
        model: the model.
        recipe: what it is compiled to.
        method: the method.
        requested: see there.
        exact: (images, target codes (N, K)) -> maps (N, K, *spatial) in float64.
    """

    model: nn.Module
    recipe: Recipe
    method: Method
    requested: Requested
    exact: Callable[[Tensor, Tensor], Tensor]

    def conservation(self, images: Tensor, target: Target, top_k: int | None) -> ConservationReport:
        """Where relevance is conserved, created or lost."""
        if self.method.step is not None:
            raise OptionsError(
                f"{self.recipe.name} moves the weights for every image and target, and conservation is of one set of "
                "them; compile the method inside."
            )
        if self.method.stream(RELEVANCE) is None:
            raise OptionsError(f"{self.recipe.name} hands on no relevance, so there is none to conserve.")
        check_concrete(images)
        with shielded(), without_tf32():
            bound, weights, codes = self.requested(images, target, top_k)
            return conservation(bound.program.canonical, self.method, images, codes, weights)

    def diagnose(self, images: Tensor, target: Target, top_k: int | None) -> Diagnosis:
        """Why maps look as they do."""
        from agf_fx.runtime.diagnosing import diagnosed  # which few ask for

        images = as_batch(images)
        check_concrete(images)
        with shielded(), without_tf32(), torch.no_grad():
            bound, weights, codes = self.requested(images, target, top_k)
            return diagnosed(bound, self.method, images, codes, weights, self.exact)

    def at_layers(self, image: Tensor, target: int | None) -> LayerMaps:
        """What one image looks like at every layer."""
        check_concrete(image)
        if len(image) != 1:
            raise InputError(
                f"a page shows one image, (1, C, H, W), not {tuple(image.shape)}; give images[:1] of a batch, and "
                "image[None] of an image alone."
            )
        with shielded(), without_tf32():
            bound, weights, codes = self.requested(image, target, None)
            return layer_maps(bound.program.canonical, self.method, image, codes, weights)

    def cost(self, program: Program, N: int | None, K: int | None, S: int | None, depth: int | None) -> Cost:
        """What an explanation costs."""
        from agf_fx.runtime.costing import cost  # which needs sympy's functions, and few ask for

        return cost(program, self.method, depth)(N, K, S)

    def cost_by_size(self, program: Program, multiple: int) -> CostBySize:
        """What an explanation costs, by the size of the images as well."""
        from agf_fx.runtime.sizes import by_size  # which few ask for

        binding, kind = Binding(self.model, self.recipe, self.method, Counters()), program.canonical.image_type
        channel = image_channel(program.canonical)
        dims = [dim for dim in range(1, kind.rank) if dim != channel]
        example = self._example(program)

        def cost_at(sizes: Sequence[int]) -> Cost:
            shape = [1, *kind.sample_shape]
            for dim, size in zip(dims, sizes, strict=True):
                shape[dim] = size
            return self.cost(binding.of(example.new_zeros(shape)).program, None, None, None, 1)

        return by_size(cost_at, len(dims), multiple)

    def plan(self, program: Program, memory: int | str, K: int, explain: Callable[..., Explanation] | None) -> Plan:
        """The largest batch that is explained at once in so much memory, timed where ``explain`` is given."""
        from agf_fx.runtime.planning import parsed_bytes, planned

        whole = parsed_bytes(memory) if isinstance(memory, str) else memory
        return planned(self.cost(program, None, None, None, None), whole, K, explain, self._example(program))

    def stages(self, program: Program) -> Stages:
        """The model's graph at every stage of the compiler."""
        recipe, model = self.recipe, self.model
        kind, placement = program.canonical.image_type, program.placement
        example = self._example(program)
        by_gradient = any(facts(node).captured_vjp for node in program.canonical.calls)
        unknown_ops = "gradient" if by_gradient else recipe.unknown_ops

        def exported() -> CanonicalGraph:
            with capturing():
                return Subject.of(model, example, recipe.output, unknown_ops).exported()

        steps = optimisations(
            recipe.reduced,
            dtype=None if placement.dtype == kind.dtype else placement.dtype,
            channels_last=placement.channels_last,
            in_place=recipe.backend_on(example.device) == "eager",
        )
        captured = functools.partial(capture, model, example, output=recipe.output, unknown_ops=unknown_ops)
        return Stages(program.explanation, self.method, steps, exported, captured)

    def _example(self, program: Program) -> Tensor:
        """One black image of the size of a program."""
        kind = program.canonical.image_type
        device = next((weight.device for weight in self.model.parameters()), torch.device("cpu"))
        return torch.zeros(1, *kind.sample_shape, dtype=kind.dtype, device=device)
