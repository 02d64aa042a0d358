"""Experiments that take pixels away."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from agf_fx.errors import InputError
from agf_fx.evaluate.experiments.subject import (
    BatchLike,
    Experiment,
    Row,
    Subject,
    classes_of,
    logits_of,
    maps_of,
    table,
)
from agf_fx.evaluate.imputation import Imputation, blur, constant
from agf_fx.evaluate.perturbation import DECILES, Curves, deletion, insertion, perturbation

STEPS = {f"accuracy at {round(100 * fraction)} %": fraction for fraction in DECILES}
_CURVE = ("area", "log_odds_area", *STEPS)


def _hidden_by(subject: Subject, impute: Imputation | None) -> Imputation:
    return constant(subject.black) if impute is None else impute


def _perturbed(
    subject: Subject,
    batch: BatchLike,
    first: Literal["least", "most"],
    impute: Imputation | None,
    seed: int,
    region: int,
) -> list[Row]:
    """Both tests of the paper: the map of the predicted class, and that of the true one; both judged by the latter.

    Of an image with several classes the true one is the first, and each map is judged by its own class, if the image
    shows that: what the network still says of the others tells nothing of the map.
    """
    truth = batch.targets[:, :1]
    if not truth.shape[1] or bool((truth < 0).any()):
        raise InputError("perturbation asks whether a network still finds the class of an image; give images with one.")
    predicted = logits_of(subject, batch.images).argmax(1, keepdim=True)
    target = torch.cat([predicted, truth], 1)
    maps = maps_of(subject, batch.images, target)
    activation = "sigmoid" if subject.multi_label else "softmax"
    several = (batch.targets >= 0).sum(1, keepdim=True) > 1
    shown = (target[:, :, None] == batch.targets[:, None, :]).any(2)
    curves = perturbation(
        subject.predict,
        batch.images,
        maps,
        target,
        labels=torch.where(several, torch.where(shown, target, -1), truth),
        first=first,
        impute=_hidden_by(subject, impute),
        activation=activation,
        seed=seed,
        region=region,
    )
    rows = []
    for k, which in enumerate(("predicted", "target")):
        rows += [{"which": which} | row for row in table(target[:, k : k + 1], **_steps(curves, k))]
    return rows


def _steps(curves: Curves, k: int) -> dict[str, Tensor]:
    """Areas, and each step, (N, 1) each, of the maps number k."""
    found = {
        "area": curves.area(curves.correct)[:, k : k + 1],
        "log_odds_area": curves.area(curves.log_odds)[:, k : k + 1],
    }
    for step, name in enumerate(STEPS):
        found[name] = curves.correct[:, k : k + 1, step]
    return found


def _least(
    subject: Subject, batch: BatchLike, *, impute: Imputation | None = None, seed: int = 0, region: int = 1
) -> list[Row]:
    return _perturbed(subject, batch, "least", impute, seed, region)


def _most(
    subject: Subject, batch: BatchLike, *, impute: Imputation | None = None, seed: int = 0, region: int = 1
) -> list[Row]:
    return _perturbed(subject, batch, "most", impute, seed, region)


def _deletion(
    subject: Subject,
    batch: BatchLike,
    *,
    steps: int = 50,
    impute: Imputation | None = None,
    seed: int = 0,
    region: int = 1,
) -> list[Row]:
    target = classes_of(subject, batch)
    maps = maps_of(subject, batch.images, target)
    activation = "sigmoid" if subject.multi_label else "softmax"
    more: dict[str, Any] = {"steps": steps, "seed": seed, "region": region, "activation": activation}
    given = subject.predict, batch.images, maps, target.clamp_min(0)
    gone = deletion(*given, impute=_hidden_by(subject, impute), **more)
    come = insertion(*given, impute=blur() if impute is None else impute, **more)
    return table(target, deletion=gone, insertion=come)


EXPERIMENTS = (
    Experiment(
        "negative-perturbation",
        "accuracy while the least relevant pixels go, 10 % to 90 %",
        "Gur, Ali and Wolf, AAAI 2021, Fig. 3 and Tab. 2",
        dict.fromkeys(_CURVE, True),
        _least,
        curve=STEPS,
    ),
    Experiment(
        "positive-perturbation",
        "accuracy while the most relevant pixels go, 10 % to 90 %",
        "Samek et al., TNNLS 2017",
        dict.fromkeys(_CURVE, False),
        _most,
        curve=STEPS,
    ),
    Experiment(
        "insertion-deletion",
        "mean probability while the most relevant pixels come, and while they go",
        "Petsiuk, Das and Saenko, BMVC 2018",
        {"deletion": False, "insertion": True},
        _deletion,
    ),
)
