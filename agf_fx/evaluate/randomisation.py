"""Sanity checks: do maps change as the network forgets what it has learnt? (Adebayo et al., NeurIPS 2018)"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from agf_fx.errors import InputError, OptionsError
from agf_fx.evaluate.robustness import Explain
from agf_fx.evaluate.sensitivity import spearman

Order = Literal["cascading", "independent"]
Similarity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SanityCheck:
    """How maps resemble those of the trained network, after each step.

    Attributes:
        layers: the layer whose weights were drawn anew at each step, from the output to the input.
        similarity: (steps, N) of the maps of N images; 1 is the same map. A method whose maps stay the same does not
            depend on what these layers have learnt.
    """

    layers: tuple[str, ...]
    similarity: Tensor


def sanity_check(
    explain_with: Callable[[nn.Module], Explain],
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    *,
    order: Order = "cascading",
    similarity: Similarity = spearman,
    seed: int = 0,
) -> SanityCheck:
    """Explain the same images and classes by ever more random copies of a network.

    Args:
        explain_with: a network -> its explainer, a function of images and target; such as ``explainer.bind``, which
            prepares new weights for the graph that is there.
        model: the trained network, which stays as it is.
        images: (N, C, H, W).
        target: (N,) int64.
        order: see `randomised`.
        similarity: of two batches of maps (N, H, W) -> (N,).
        seed: of the weights.

    Raises:
        InputError: the network has no layer with weights.
        OptionsError: the order is unknown.
    """
    usual = explain_with(model)(images, target)
    try:
        found = [
            (name, similarity(usual, explain_with(changed)(images, target)))
            for name, changed in randomised(model, images[:1], order=order, seed=seed)
        ]
    finally:
        explain_with(model)  # an explainer that was bound to copies is bound to its network again
    if not found:
        raise InputError(f"{type(model).__name__} has no layer with weights to draw anew.")
    names, values = zip(*found, strict=True)
    return SanityCheck(names, torch.stack(values))


def randomised(
    model: nn.Module, images: Tensor, *, order: Order = "cascading", seed: int = 0
) -> Iterator[tuple[str, nn.Module]]:
    """Copies of a network with weights drawn anew, layer by layer from the output to the input.

    Layers are modules with parameters of their own, in the order in which they first run. New weights are those with
    which a layer starts (``reset_parameters``, running statistics of a normalisation included), or, where it has no
    such method, normal numbers of the same mean and deviation as its own.

    Args:
        model: the trained network, which stays as it is.
        images: (1, C, H, W); the order of layers is seen on it.
        order: ``"cascading"`` keeps the layers that were drawn before, ``"independent"`` changes one at a time.
        seed: of the weights.

    Yields:
        The name of the layer, and the copy.

    Raises:
        OptionsError: the order is unknown.
    """
    if order not in ("cascading", "independent"):
        raise OptionsError(f"order is {order!r}; give 'cascading' or 'independent'.")
    changed = copy.deepcopy(model)
    for step, name in enumerate(reversed(_layers(model, images))):
        if order == "independent":
            changed = copy.deepcopy(model)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed((seed << 20) + step)
            _draw(changed.get_submodule(name))
        yield name, copy.deepcopy(changed)


def _layers(model: nn.Module, images: Tensor) -> list[str]:
    """Modules with parameters of their own, as they run; those that never run, or not as a module, at the end."""
    watched, ran = copy.deepcopy(model), []
    own = {name: module for name, module in watched.named_modules() if [*module.parameters(recurse=False)]}
    for name, module in own.items():
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    with torch.no_grad():
        watched.eval()(images)
    return list(dict.fromkeys([*ran, *own]))


def _draw(layer: nn.Module) -> None:
    if callable(getattr(layer, "reset_parameters", None)):
        layer.reset_parameters()
        return
    for weight in layer.parameters(recurse=False):
        deviation = weight.std() if weight.numel() > 1 else weight.abs().mean()
        weight.copy_(torch.randn(weight.shape).to(weight) * deviation + weight.mean())
