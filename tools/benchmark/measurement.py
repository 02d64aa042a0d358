"""One network at one batch size: everything that is compared runs in turns."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import torch
from benchmark.peers import peer_runs
from benchmark.products import Product, bare, products_of
from benchmark.subjects import OWN, Subject, Variant
from benchmark.timing import Run, interleaved, medians, timed
from torch import Tensor, nn

FORWARD, CHANNELS_LAST = "forward", "forward channels_last"


@dataclass(frozen=True)
class Measurement:
    """What was measured on one network at one batch size.

    Attributes:
        subject: the network.
        images: the batch.
        runs: what was timed, by name.
        rounds_s: seconds of every run in every round.
        first_s: seconds of the first call of every explanation, by name.
        forward_products: the products of the forward pass.
        products: the products of eager explanations, by precision and number of targets.
        refused: peers that do not run, and why.
    """

    subject: Subject
    images: Tensor
    runs: dict[str, Run]
    rounds_s: dict[str, list[float]]
    first_s: dict[str, float]
    forward_products: list[Product]
    products: dict[tuple[str, int], list[Product]]
    refused: dict[str, str]

    def seconds(self, name: str) -> float:
        """The median of a run."""
        return medians(self.rounds_s)[name]

    def multiple(self, name: str) -> float:
        """The median of a run over the median of the forward pass."""
        return self.seconds(name) / self.seconds(FORWARD)


def measure(subject: Subject, batch: int) -> Measurement:
    """Time forward passes, explanations, their bare products and the peers in turns."""
    settings, images = subject.settings, subject.images(batch)
    runs, explanations = forward_runs(subject, images), explanation_runs(subject, images)
    runs[FORWARD]()  # wakes up threads and device, which is no cost of a first explanation
    first = {name: timed(run, settings.device) for name, run in explanations.items()}
    products = {
        (precision, targets): products_of(explanation(subject, Variant("eager", precision), images, targets))
        for precision in settings.precisions
        for targets in settings.targets
    }
    one_class = subject.targets(batch, 1)[:, 0]
    peers, refused = peer_runs(
        subject.model, images, one_class, settings.peers, [count for count in settings.targets if count > 1]
    )
    runs |= explanations
    runs |= {bare_name(*key): bare(recorded) for key, recorded in products.items()}
    runs |= {peer_name(name): run for name, run in peers.items()}
    rounds = interleaved(runs, settings.repeats, settings.device, settings.turn)
    forward_products = products_of(lambda: subject.model(images))
    return Measurement(subject, images, runs, rounds, first, forward_products, products, refused)


def forward_name(precision: str) -> str:
    """The name of the run of the network in a precision."""
    return FORWARD if precision == OWN else f"{FORWARD} {precision}"


def bare_name(precision: str, targets: int) -> str:
    """The name of the run of bare products."""
    return f"bare products {precision} K={targets}"


def explanation_name(variant: Variant, targets: int) -> str:
    """The name of the run of an explanation."""
    return f"explanation {variant.backend} {variant.precision} K={targets}"


def peer_name(peer: str) -> str:
    """The name of the run of a peer."""
    return f"peer {peer}"


def forward_runs(subject: Subject, images: Tensor) -> dict[str, Run]:
    """The network as users run it for prediction: as it is, with channels innermost, and in other precisions."""
    model, inner = subject.model, torch.channels_last
    runs = {
        FORWARD: forward(model, images),
        CHANNELS_LAST: forward(copy.deepcopy(model).to(memory_format=inner), images.contiguous(memory_format=inner)),
    }
    for precision in subject.settings.precisions:
        if precision != OWN:
            dtype = getattr(torch, precision)
            runs[forward_name(precision)] = forward(copy.deepcopy(model).to(dtype), images.to(dtype))
    return runs


def forward(model: nn.Module, images: Tensor) -> Run:
    """A forward pass without gradients."""

    @torch.inference_mode()
    def run() -> Tensor:
        return model(images)

    return run


def explanation_runs(subject: Subject, images: Tensor) -> dict[str, Run]:
    """Calls of the explainers of all variants, for every number of targets."""
    return {
        explanation_name(variant, targets): explanation(subject, variant, images, targets)
        for variant in subject.settings.variants
        for targets in subject.settings.targets
    }


def explanation(subject: Subject, variant: Variant, images: Tensor, targets: int) -> Run:
    """A call of an explainer."""
    explainer, target = subject.explainer(variant), subject.targets(len(images), targets)

    def run() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a map of random weights may be empty in a low precision
            return explainer(images, target)

    return run
