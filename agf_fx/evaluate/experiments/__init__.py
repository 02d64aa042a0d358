"""Experiments as data: what each measures of a batch of images, a row for each image and class."""

from __future__ import annotations

from typing import Any

from agf_fx.evaluate.experiments import dependence, objects, perturbation, saliency
from agf_fx.evaluate.experiments.subject import BatchLike, Experiment, Row, Subject

__all__ = ["EXPERIMENTS", "BatchLike", "Experiment", "Row", "Subject", "rows_of"]

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (*perturbation.EXPERIMENTS, *objects.EXPERIMENTS, *dependence.EXPERIMENTS, *saliency.EXPERIMENTS)
}


def rows_of(experiment: Experiment, subject: Subject, batch: BatchLike, **options: Any) -> list[Row]:
    """The rows of a batch: ``image`` (its name), ``target`` (the class) and the measures.

    Raises:
        InputError: the images lack masks or classes that the experiment needs.
    """
    names = list(batch.names)
    return [{"image": names[row.pop("index")], **row} for row in experiment.measure(subject, batch, **options)]
