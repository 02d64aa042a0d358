"""One model, captured and compiled, and its explanation of two images for two targets each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

import agf_fx
from agf_fx.emit import Streams, interpret
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.methods.method import Method
from agf_fx.options import AGFOptions
from agf_fx.pipeline import lower, verify_step
from agf_fx.runtime.weights import WeightInputs

METHOD = attribution_guided_factorization(AGFOptions())
EXACT = attribution_guided_factorization(AGFOptions(division="exact"))

# (images, targets): the two highest classes, and two fixed ones.
TARGET = torch.tensor([[-1, -2], [5, 0]])


@dataclass(frozen=True)
class Case:
    """A model under test.

    Attributes:
        model: in evaluation mode, float64, with 6 classes or more.
        images: (2, C, H, W).
        canonical: the captured model, analysed.
        emitted: the explanation graph as it is emitted.
        optimised: the explanation graph as it is run.
        compile_s: seconds of processor time of capture and of lowering, optimisations included.
    """

    model: nn.Module
    images: Tensor
    canonical: CanonicalGraph
    emitted: ExplanationGraph
    optimised: ExplanationGraph
    compile_s: float

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the canonical graph takes besides images, by placeholder name, in order."""
        found = WeightInputs(self.canonical, self.emitted).current(self.model)
        names = [node.name for node in self.canonical.graph.nodes if node.op == "placeholder"]
        return {name: found[name].detach() for name in names[1:]}

    @cached_property
    def streams(self) -> Streams:
        """The explanation by the eager interpreter."""
        return self.interpret(METHOD)

    @torch.no_grad()
    def interpret(self, method: Method) -> Streams:
        """The explanation by another method."""
        return interpret(self.canonical, method, self.images, TARGET, self.inputs)


def compiled(model: nn.Module, images: Tensor) -> Case:
    """Compile a model; every graph is verified.

    Raises:
        AgfFxError: whatever stands in the way.
    """
    started = time.process_time()
    canonical = agf_fx.capture(model, images[:1])
    optimised = lower(canonical, METHOD)
    compile_s = time.process_time() - started
    verify_step("optimised", optimised)
    emitted = lower(canonical, METHOD, verify_step, optimisations=())
    return Case(model, images, canonical, emitted, optimised, compile_s)
