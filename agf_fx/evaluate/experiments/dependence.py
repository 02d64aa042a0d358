"""Experiments on what maps depend on: the class, the weights, small changes of the image."""

from __future__ import annotations

from torch import Tensor

from agf_fx.errors import InputError
from agf_fx.evaluate.experiments.subject import BatchLike, Experiment, Row, Subject, logits_of, maps_of, table
from agf_fx.evaluate.randomisation import Order, randomised
from agf_fx.evaluate.robustness import infidelity, max_sensitivity, sparseness
from agf_fx.evaluate.sensitivity import spearman


def _sensitivity(subject: Subject, batch: BatchLike) -> list[Row]:
    """Of signed maps a correlation of -1 is the same map turned, so that the correlation of sizes says more of them."""
    order = logits_of(subject, batch.images).argsort(dim=1, descending=True, stable=True)
    if order.shape[1] < 2:
        raise InputError("class sensitivity compares the maps of two classes, and the network has one.")
    target = order[:, [0, -1]]
    maps = maps_of(subject, batch.images, target)
    alike = {
        "correlation": spearman(maps[:, 0], maps[:, 1]),
        "absolute_correlation": spearman(maps[:, 0].abs(), maps[:, 1].abs()),
    }
    return table(target[:, :1], **{name: value[:, None] for name, value in alike.items()})


def _sanity(subject: Subject, batch: BatchLike, *, order: Order = "cascading", seed: int = 0) -> list[Row]:
    if subject.model is None or subject.bind is None:
        raise InputError("sanity checks draw the network's weights anew; give the model and how copies are explained.")
    target = logits_of(subject, batch.images).argmax(1, keepdim=True)
    usual = maps_of(subject, batch.images, target)[:, 0]
    rows: list[Row] = []
    try:
        for step, (layer, copy) in enumerate(randomised(subject.model, batch.images[:1], order=order, seed=seed), 1):
            maps = subject.bind(copy)(batch.images, target)[:, 0]
            alike = {"correlation": spearman(usual, maps), "absolute_correlation": spearman(usual.abs(), maps.abs())}
            found = table(target, **{name: value[:, None] for name, value in alike.items()})
            rows += [{"layer": layer, "step": step} | row for row in found]
    finally:
        subject.bind(subject.model)
    return rows


def _robustness(
    subject: Subject, batch: BatchLike, *, radius: float = 0.02, noise: float = 0.1, samples: int = 10, seed: int = 0
) -> list[Row]:
    target = logits_of(subject, batch.images).argmax(1)

    def explain(images: Tensor, classes: Tensor) -> Tensor:
        return maps_of(subject, images, classes[:, None])[:, 0]

    maps = explain(batch.images, target)
    changed = max_sensitivity(explain, batch.images, target, radius=radius, samples=samples, seed=seed)
    missed = infidelity(subject.predict, batch.images, maps, target, noise=noise, samples=5 * samples, seed=seed)
    found = {"max_sensitivity": changed, "infidelity": missed, "sparseness": sparseness(maps)}
    return table(target[:, None], **{name: value[:, None] for name, value in found.items()})


EXPERIMENTS = (
    Experiment(
        "class-sensitivity",
        "rank correlation between the maps of the most and of the least likely class",
        "Rebuffi, Fong, Ji and Vedaldi, CVPR 2020",
        {"absolute_correlation": False, "correlation": False},
        _sensitivity,
    ),
    Experiment(
        "sanity",
        "rank correlation with the maps of networks whose layers are drawn anew",
        "Adebayo et al., NeurIPS 2018",
        {"correlation": False, "absolute_correlation": False},
        _sanity,
    ),
    Experiment(
        "robustness",
        "maximum sensitivity, infidelity and sparseness",
        "Yeh et al., NeurIPS 2019; Chalasani et al., ICML 2020",
        {"max_sensitivity": False, "infidelity": False, "sparseness": None},
        _robustness,
    ),
)
