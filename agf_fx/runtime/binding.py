"""A model and its programs: graphs that are shared with other models, and the weights that are its own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agf_fx.errors import ArchitectureError, InputError
from agf_fx.methods.method import Method
from agf_fx.runtime.compiler import Compiled, compiled
from agf_fx.runtime.program import Program
from agf_fx.runtime.recipe import Recipe
from agf_fx.runtime.weights import TensorState, WeightInputs
from agf_fx.store.counters import Counters, count
from agf_fx.store.locks import Lock
from agf_fx.store.memory import Recent

IMAGE_SIZES = 16  # that one explainer keeps programs and prepared weights for

Kind = tuple[tuple[int, ...], torch.dtype, torch.device]  # of images: sample shape, dtype, device


@dataclass(frozen=True)
class Bound:
    """A program with the weights of one model.

    Attributes:
        compiled: the program, shared with other models.
        weights: reads and prepares the model's weights.
        baked: state of the model's tensors whose values the program may contain.
        settings: plain values that it may contain: which modules there are, their settings, what functions hold.
    """

    compiled: Compiled
    weights: WeightInputs
    baked: TensorState
    settings: list[Any]

    @property
    def program(self) -> Program:
        """The program."""
        return self.compiled.program

    def inputs(self, model: nn.Module) -> list[Tensor]:
        """What the program takes after images and target: weights as they are now, and what is prepared from them.

        Raises:
            InputError: the model has lost or changed the shape of a parameter since it was captured.
        """
        return self.weights.prepared(self.weights.current(model), self.program.placement)

    def up_to_date(self, model: nn.Module) -> bool:
        """Whether the values that the program contains are still the model's."""
        tensors, settings = self.compiled.baked.now(model)
        return self.settings == settings and (not tensors or self.baked.same_as(TensorState.of(tensors)))


class Binding:
    """The programs of one model, by kind of images.

    Attributes:
        model: the model.
        latest: what was used last; None before anything was compiled.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, rules: Method, counters: Counters) -> None:
        self.model = model
        self.latest: Bound | None = None
        self._recipe = recipe
        self._rules = rules
        self._counters = counters
        self._bound: Recent[Bound] = Recent(IMAGE_SIZES)
        self._lock = Lock()

    def of(self, images: Tensor) -> Bound:
        """The program for a batch, compiled if it has to be.

        Raises:
            CaptureError, UnsupportedOpError, InputError: see `agf_fx.capture`.
        """
        kind = (tuple(images.shape[1:]), images.dtype, images.device) if isinstance(images, Tensor) else None
        bound = self._known(kind)
        if bound is None:
            with self._lock:
                bound = self._known(kind)
                if bound is None:
                    bound = self._bind(images)
                    self._bound.put(kind, bound)
        self.latest = bound
        return bound

    def rebound(self, model: nn.Module) -> Binding:
        """The same programs with another model of the architecture.

        Raises:
            ArchitectureError: the model is of another architecture.
        """
        other = Binding(model, self._recipe, self._rules, self._counters)
        for kind, bound in self._bound.items():
            other._bound.put(kind, _same_architecture(bound, other._bind_like(kind)))
            if bound is self.latest:
                other.latest = other._bound.peek(kind)
        return other

    def forget_weights(self) -> None:
        """Prepare all weights anew at the next call."""
        for _, bound in self._bound.items():
            bound.weights.forget()

    @property
    def image_sizes(self) -> list[tuple[int, ...]]:
        """Sample shapes that programs are kept for."""
        return list(dict.fromkeys(size for (size, _, _), _ in self._bound.items()))

    def _known(self, kind: Any) -> Bound | None:
        bound = None if kind is None else self._bound.peek(kind)
        return bound if bound and bound.up_to_date(self.model) else None

    def _bind(self, images: Tensor) -> Bound:
        found = compiled(self.model, images, self._recipe, self._rules, self._counters)
        program, prepared = found.program, functools.partial(count, "prepares", self._counters)
        weights = WeightInputs(program.canonical, program.explanation, prepared, self._rules.accepts)
        tensors, settings = found.baked.now(self.model)
        return Bound(found, weights, TensorState.of(tensors), settings)

    def _bind_like(self, kind: Kind) -> Bound:
        shape, dtype, device = kind
        try:
            return self._bind(torch.zeros(1, *shape, dtype=dtype, device=device))
        except InputError as error:
            raise ArchitectureError(f"the model cannot take the place of the compiled one: {error}") from error


def _same_architecture(old: Bound, new: Bound) -> Bound:
    """``new``, which must be of the architecture of ``old``."""
    if old.program.key != new.program.key:
        name = old.program.canonical.name
        raise ArchitectureError(
            f"the model is of another architecture than the compiled {name}: its graph for images "
            f"{tuple(old.program.canonical.image_type.sample_shape)} differs. Compile it: agf_fx.compile(model)."
        )
    return new
