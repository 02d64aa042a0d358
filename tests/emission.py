"""Explanation graphs as the emitter leaves them, and the weights that they read."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor, nn

import agf_fx
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.options import AGFOptions
from agf_fx.pipeline import lower


def weights(canonical: CanonicalGraph, model: nn.Module) -> dict[str, Tensor]:
    """What the graph takes besides images (and targets), by placeholder name, in order."""
    signature = canonical.signature
    found = {name: operator.attrgetter(path)(model).detach() for name, path in signature.weights.items()}
    placeholders = [node.name for node in canonical.graph.nodes if node.op == "placeholder"]
    return {name: (found | dict(signature.constants))[name] for name in placeholders[1:]}


def unoptimised(model: nn.Module, size: int) -> tuple[ExplanationGraph, Callable[[], tuple[Tensor, Tensor]]]:
    """AGF of a float64 network before any optimisation, and a function that runs it on two fixed images, two targets each."""
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    canonical = agf_fx.capture(model, images)
    explanation = lower(canonical, attribution_guided_factorization(AGFOptions()), optimisations=())
    inputs, target = weights(canonical, model).values(), torch.tensor([[0, -1], [1, 2]])

    def run() -> tuple[Tensor, Tensor]:
        explanation.module.recompile()  # passes change the graph only
        return explanation.module(images, target, *inputs)

    return explanation, run
