"""What must hold of every network."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from agf_fx.errors import CaptureError
from agf_fx.ir.facts import facts
from agf_fx.ir.text import op_name
from agf_fx.methods import REGISTRY
from agf_fx.rules.targets import chosen_classes
from random_networks.capturing import Case, cases
from random_networks.conserving import relevance_is_conserved
from random_networks.judging import close, largest, require

USE = """\

import agf_fx

maps = agf_fx.compile(model)(images, target)
"""


def check(source: str) -> None:
    """Raise an AssertionError that holds ``source`` if anything is wrong with the network that it makes."""
    try:
        _check(Case.of(source))
    except Exception as error:
        raise failure(error, source) from error


def check_together(sources: Sequence[str], drawn: set[str] | None = None) -> dict[int, AssertionError]:
    """The same for several networks on images of one shape, captured at once: index -> error, empty if all is well.

    ``drawn`` takes up the names of the operations that the networks consist of.
    """
    try:
        found: Sequence[Case | None] = cases(sources)
    except Exception:  # because of any of them
        found = [None] * len(sources)
    if drawn is not None:
        drawn.update(op_name(node.target) for case in found if case for node in case.canonical.calls)
    errors = {i: _error(case, source) for i, (case, source) in enumerate(zip(found, sources, strict=True))}
    return {i: error for i, error in errors.items() if error}


def _error(case: Case | None, source: str) -> AssertionError | None:
    try:
        _check(case or Case.of(source))
    except Exception as error:
        return failure(error, source)
    return None


def failure(error: Exception, source: str) -> AssertionError:
    """An error with the script that shows it."""
    lines = "".join(traceback.format_exception(error, limit=-3, chain=False))
    return AssertionError(f"{lines}\n{source}{USE}")


def _check(case: Case) -> None:
    for check_one in CHECKS:
        check_one(case)


def _map_shape(case: Case) -> list[int]:
    """The images' shape without the dimension of channels."""
    channels = facts(case.canonical.images).channel_dim
    return [size for dim, size in enumerate(case.images.shape) if dim not in (0, channels)]


# The checks

# What a model has behind the logits that are explained.
FINISHED = {
    "": lambda logits: logits,
    "softmax": lambda logits: logits.softmax(1),
    "log_softmax": lambda logits: logits.log_softmax(1),
    "sigmoid": torch.sigmoid,
}


def graph_equals_model(case: Case) -> None:
    with torch.no_grad():
        expected = case.model(case.images)
    _, logits = case.explain()
    finish = FINISHED[facts(case.canonical.logits).taken_off]
    close(finish(case.forward(case.images)), expected, 1e-10, "the captured graph's logits differ from the model's")
    close(finish(logits), expected, 1e-10, "the explanation graph's logits differ from the model's")


def interpreter_equals_emitted_graph(case: Case) -> None:
    maps, logits = case.explain()
    require(torch.equal(case.streams.maps, maps), "the emitted graph's maps have other bits than the interpreter's")
    require(
        torch.equal(case.streams.logits, logits), "the emitted graph's logits have other bits than the interpreter's"
    )


def seed_equals_autograd(case: Case) -> None:
    """The gradient at the logits is that of the softened target (eq. 8).

    Where the other classes have next to no probability, autograd computes 1 - p_t with few digits; hence the absolute
    tolerance. Where all logits are equal, the formula divides 0 by 0, and the method says 0.
    """
    y = case.streams.logits.clone().requires_grad_()
    seed = case.streams.gradient[case.canonical.logits.name]
    for found, target in zip(seed, chosen_classes(y.detach(), case.target)[..., None], strict=True):
        y_t = y.gather(1, target)
        sigma = (y - y_t).abs().amax(1, keepdim=True)
        score = torch.softmax(y_t * torch.exp(-0.5 * ((y - y_t) / sigma) ** 2), 1).gather(1, target)
        (expected,) = torch.autograd.grad(score.sum(), y, retain_graph=True)
        expected = torch.where(sigma == 0, 0, expected)
        steepness = 1 + y.abs().amax(1) / sigma[:, 0].clamp(min=1e-300)
        error, allowed = (found - expected).abs().amax(1), 1e-8 * expected.abs().amax(1) + 1e-13 * steepness**2
        require(bool((error <= allowed).all()), f"the gradient at the logits differs from autograd by {error.tolist()}")


def gradient_equals_autograd(case: Case) -> None:
    """From the logits to the images; by the captured graph where the model overwrites what autograd needs."""
    seed = case.streams.gradient[case.canonical.logits.name]
    found = case.streams.gradient[case.canonical.images.name]
    whole = not facts(case.canonical.logits).taken_off
    for forward in (case.model, case.forward) if whole else (case.forward,):
        images = case.images.clone().requires_grad_()
        try:
            y = forward(images)
            expected = [torch.autograd.grad(y, images, g, retain_graph=True)[0] for g in seed]
        except RuntimeError as error:
            if "inplace" in str(error) and forward is case.model:
                continue
            raise
        break
    error, scale = float((found - torch.stack(expected)).abs().max()), float(found.abs().max())
    if error > 1e-8 * scale:  # as where the mean of normalised values is read: that gradient is 0 but for rounding
        others = [other.streams.gradient[case.canonical.images.name] for other in moved(case)]
        allowed = 10 * max(float((other - found).abs().max()) for other in others)
        right = error <= allowed or _is_derivative(case, seed, found)
        require(right, f"the gradient at the images differs from autograd by {error:.2g} of {scale:.2g}")


def _is_derivative(case: Case, seed: Tensor, found: Tensor) -> bool:
    """Whether differences of the model itself confirm ``found``, (K, N, ...), along a random direction.

    Asked where autograd differs: PyTorch's own gradient of a batch norm in front of a global mean is wrong for maps of
    some shapes, such as (N, 2, 5, 1, 1), in version 2.15.
    """
    direction = torch.randn(case.images.shape, dtype=case.images.dtype, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ahead, behind = (case.model(case.images + step * direction) for step in (1e-6, -1e-6))
    slopes = (seed * (ahead - behind) / 2e-6).flatten(1).sum(1)
    parts = (found * direction).flatten(1)
    return bool(((slopes - parts.sum(1)).abs() <= 1e-6 * parts.abs().sum(1)).all())


def relevance_is_finite(case: Case) -> None:
    for name, phi in case.streams.relevance.items():
        require(phi is None or bool(phi.isfinite().all()), f"the relevance of %{name} is not finite")


def optimised_equals_emitted_graph(case: Case) -> None:
    maps, (expected, _) = case.explain_optimised(), case.explain()
    require(maps.shape == (*case.target.shape, *_map_shape(case)), f"the maps have shape {tuple(maps.shape)}")
    require(bool(maps.isfinite().all()), "the maps are not finite")
    _equal_to_rounding(case, maps, expected, "the optimisations change the maps")


def images_and_targets_do_not_see_each_other(case: Case) -> None:
    together, _ = case.explain()
    alone = together.clone()
    alone[1:, 1:], _ = replace(case, images=case.images[1:], target=case.target[1:, 1:]).explain()
    _equal_to_rounding(case, alone, together, "an image with one target alone has another map")


def _equal_to_rounding(case: Case, maps: Tensor, expected: Tensor, complaint: str) -> None:
    error, scale = largest(maps - expected), largest(expected)
    if bool((error > 1e-9 * scale).any()):
        allowed = torch.maximum(1e-9 * scale, 10 * rounding(case))
        complaint = f"{complaint} by {error.tolist()}, their largest entries are {scale.tolist()}"
        require(bool((error <= allowed).all()), complaint)


def second_call_gives_the_same_bits(case: Case) -> None:
    first, second = (case.explain_optimised() for _ in range(2))
    require(torch.equal(first, second), "a second call gives other maps")


# Others than AGF, by which each network is explained in turn; without biases, which take a part.
OTHERS = (
    ("lrp-0", {"bias": False}),
    ("lrp-gamma", {"bias": False}),
    ("lrp-zplus", {"bias": False, "lossless": True}),
    ("epsilon-alpha2-beta1-flat", {"bias": False, "lossless": True}),
    ("lrp-alphabeta", {"alpha": 2.0, "lossless": True}),
    ("lrp-alphabeta", {}),
    ("epsilon-gamma-box", {"bias": False, "bounds": "first-layer"}),
    ("lrp-w2", {"bias": False}),
    ("attnlrp", {"bias": False}),
    ("rap", {}),
)


def another_method_holds_too(case: Case) -> None:
    """The graph gives the interpreter's bits, optimisations change nothing, and relevance is conserved as promised."""
    name, options = OTHERS[len(case.canonical.calls) % len(OTHERS)]
    entry = REGISTRY[name]
    try:
        other = case.by(entry.make(entry.chosen(options)))
    except CaptureError:
        return  # a call has no rule of relevance
    interpreter_equals_emitted_graph(other)
    relevance_is_finite(other)
    optimised_equals_emitted_graph(other)
    relevance_is_conserved(other)


CHECKS: tuple[Callable[[Case], None], ...] = (
    graph_equals_model,
    interpreter_equals_emitted_graph,
    seed_equals_autograd,
    gradient_equals_autograd,
    relevance_is_finite,
    relevance_is_conserved,
    images_and_targets_do_not_see_each_other,
    optimised_equals_emitted_graph,
    second_call_gives_the_same_bits,
    another_method_holds_too,
)


def moved(case: Case) -> list[Case]:
    """The network with images and weights moved by a few units in the last place, eight times."""
    generator = torch.Generator().manual_seed(0)

    def nearby(value: Tensor) -> Tensor:
        signs = torch.randint(0, 2, value.shape, generator=generator).to(value.dtype) * 2 - 1
        return value * (1 + 1e-15 * signs) if value.is_floating_point() else value

    def once() -> Case:
        weights = {name: nearby(weight) for name, weight in case.weights.items()}
        return replace(case, images=nearby(case.images), weights=weights)

    return [once() for _ in range(8)]


def rounding(case: Case) -> Tensor:
    """How far each map (N, K) moves when images and weights move by a few units in the last place.

    A residual sum hands on Φ / (a + b), and where a + b nearly cancels, the relevance in front of it is large and
    carries the rounding of a + b, relative to a + b. A rewriting cannot keep more digits than the formula has, so a
    network that exceeds 1e-9 is held to its own rounding.
    """
    maps, _ = case.explain()
    return torch.stack([largest(other.explain()[0] - maps) for other in moved(case)]).amax(0)
