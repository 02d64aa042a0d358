"""What an explanation costs at the usual image size."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from benchmark.timing import interleaved, medians, timed
from coverage_report.networks import build, image_size, random_images
from torch import Tensor

import agf_fx
from agf_fx.runtime.degenerate import DegenerateMapWarning

SIZE = 224
REPEATS = 3
LONGEST_S = 60.0  # what a measurement may take
_CPU = torch.device("cpu")
_EXPECTED = 6  # forward passes that an explanation takes


def cost(name: str) -> dict[str, Any]:
    """Seconds of a forward pass and of an explanation: float32, one image of size 224, one target, eager.

    Medians of 3 rounds in which the two take turns; empty where the rounds would take longer than a minute.
    """
    size = image_size(name, SIZE)
    model, images = build(name, size, torch.float32), random_images(1, size, torch.float32, seed=2)

    @torch.inference_mode()
    def forward() -> Tensor:
        return model(images)

    forward()
    if timed(forward, _CPU) * (1 + _EXPECTED) * (1 + REPEATS) > LONGEST_S:
        return {}
    explainer = agf_fx.compile(model, images)

    def explanation() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateMapWarning)
            return explainer(images, 7)

    seconds = medians(interleaved({"forward": forward, "explanation": explanation}, REPEATS, _CPU, minimum=0.1))
    return {
        "forward_s": seconds["forward"],
        "explanation_s": seconds["explanation"],
        "multiple": seconds["explanation"] / seconds["forward"],
    }
