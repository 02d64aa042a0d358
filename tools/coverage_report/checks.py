"""What has to hold for an explanation of any classifier, as figures and their limits."""

from __future__ import annotations

from typing import Any

import torch
from coverage_report.case import METHOD, TARGET, Case
from torch import Tensor, fx

from agf_fx.ir.facts import facts
from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.vocabulary import is_parametrised
from agf_fx.rules.targets import chosen_classes
from agf_fx.runtime.program import Program

Figures = dict[str, Any]

FORWARD_LIMIT = 1e-10  # logits, relative to the largest
GRADIENT_LIMIT = 1e-8  # gradient stream, relative to the largest entry of autograd's
OPTIMISED_LIMIT = 1e-9  # maps of the optimised graph, relative to the largest entry of the emitted graph's
CLASS_LIMIT = 1e-6  # how much maps of two classes have to differ, relative to their largest entry


def check(case: Case) -> Figures:
    """All figures of a model, see `failures` for their limits."""
    maps = case.streams.maps
    return {
        "forward": forward_difference(case),
        "gradient": gradient_differences(case),
        "finite": bool(maps.isfinite().all()),
        "constant": constant_maps(case),
        "between_classes": relative(maps[:, 0], maps[:, 1], smallest=True),
        **graph_differences(case),
    }


def failures(figures: Figures) -> list[str]:
    """What does not hold, in words; empty for a model that passes."""
    found = []
    if not figures["forward"] <= FORWARD_LIMIT:
        found.append(f"logits differ from the model's by {figures['forward']:.1e}")
    for where, difference in figures["gradient"].items():
        if not difference <= GRADIENT_LIMIT:
            found.append(f"gradient at {where} differs from autograd's by {difference:.1e}")
    if not figures["finite"]:
        found.append("maps are not finite")
    if figures["constant"]:
        found.append(f"{figures['constant']} of {TARGET.numel()} maps are constant")
    if not figures["between_classes"] >= CLASS_LIMIT:
        found.append(f"maps of two classes differ by {figures['between_classes']:.1e} only")
    if not figures["emitted_same_bits"]:
        found.append("the emitted graph gives other bits than the interpreter")
    if not figures["optimised"] <= OPTIMISED_LIMIT:
        found.append(f"maps of the optimised graph differ from the emitted graph's by {figures['optimised']:.1e}")
    return found


def constant_maps(case: Case) -> int:
    """How many maps are the same everywhere, although the gradient is not 0.

    It is 0 where a ReLU behind the head holds the target's logit at 0, as in SqueezeNet; such a map is empty.
    """
    maps, gradient = case.streams.maps, case.streams.gradient[case.canonical.images.name]
    alive = gradient.flatten(2).any(2).t()
    return int((alive & (maps.amax((2, 3)) == maps.amin((2, 3)))).sum())


def forward_difference(case: Case) -> float:
    """Between the logits and the model's own, over the largest of those."""
    with torch.no_grad():
        expected = case.model(case.images)
    return relative(case.streams.logits[None], expected[None])


def gradient_differences(case: Case) -> dict[str, float]:
    """Between the gradient stream and autograd's gradient of the same scalar: at the images, and inside the model.

    At the images autograd runs the model itself; at three layers, the canonical graph.
    """
    seed = METHOD.stream("gradient").seed(case.streams.logits, chosen_classes(case.streams.logits, TARGET))
    images = case.images.clone().requires_grad_()
    expected = autograd(case.model(images), {case.canonical.images.name: images}, seed)
    values = canonical_values(case)
    layers = {node.name: values[node] for node in inner_layers(case)}
    expected |= autograd(values[case.canonical.logits], layers, seed)
    return {name: relative(case.streams.gradient[name], torch.stack(gradients)) for name, gradients in expected.items()}


def autograd(logits: Tensor, values: dict[str, Tensor], seed: Tensor) -> dict[str, list[Tensor]]:
    """The gradients at ``values`` for each of the targets of ``seed`` (K, N, classes)."""
    rows = [torch.autograd.grad(logits, list(values.values()), g, retain_graph=True) for g in seed]
    return dict(zip(values, map(list, zip(*rows, strict=True)), strict=True))


def canonical_values(case: Case) -> dict[fx.Node, Tensor]:
    """The value of every node of the canonical graph, by torch.fx's own interpreter, ready for autograd."""
    return case.canonical.forward(case.images.clone().requires_grad_(), case.inputs)


def inner_layers(case: Case) -> list[fx.Node]:
    """Three convolutions or linear layers, spread over the depth of the model, heads excluded."""
    layers = [node for node in case.canonical.calls if is_parametrised(node) and not facts(node).head]
    return [layers[i] for i in sorted({len(layers) * quarter // 4 for quarter in (1, 2, 3)})]


def graph_differences(case: Case) -> Figures:
    """Whether the emitted graph does what the interpreter does, and how far the optimised graph is from it."""
    emitted, optimised = (run(case, explanation) for explanation in (case.emitted, case.optimised))
    return {
        "emitted_same_bits": torch.equal(emitted, case.streams.maps),
        "optimised": relative(optimised.flatten(0, 1), emitted.flatten(0, 1)),
    }


def run(case: Case, explanation: ExplanationGraph) -> Tensor:
    """The maps (N, K, H, W) of an explanation graph."""
    program = Program(case.canonical, explanation)
    return program.run(case.images, TARGET, program.inputs(case.model))[0]


def relative(found: Tensor, expected: Tensor, *, smallest: bool = False) -> float:
    """The largest (smallest) difference among pairs of items, each over the largest entry of the expected item.

    Items that are equal differ by 0, even where both are 0; NaN differs by NaN.

    Args:
        found: (items, ...).
        expected: the same shape.
        smallest: return the smallest instead.
    """
    differences = largest(found - expected)
    differences = torch.where(differences == 0, differences, differences / largest(expected))
    return float(differences.min() if smallest else differences.max())


def largest(items: Tensor) -> Tensor:
    """The largest absolute entry of each item, (items,)."""
    return items.abs().flatten(1).amax(1)
