"""Explanation graphs as the emitter leaves them, for the tests of passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import agf_fx
from agf_fx.ir.graph import ExplanationGraph
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.options import AGFOptions
from agf_fx.pipeline import lower
from agf_fx.runtime.program import Program


def unoptimised(model: nn.Module, size: int) -> tuple[ExplanationGraph, Callable[[], tuple[Tensor, Tensor]]]:
    """AGF of a float64 network before any optimisation, and a function that runs it on two fixed images, two targets each."""
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    canonical = agf_fx.capture(model, images)
    explanation = lower(canonical, attribution_guided_factorization(AGFOptions()), optimisations=())
    inputs = Program(canonical, explanation).inputs(model)
    return explanation, lambda: explanation.module(images, torch.tensor([[0, -1], [1, 2]]), *inputs)
