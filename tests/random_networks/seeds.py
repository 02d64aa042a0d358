"""Ranges of seeds."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from random_networks.checks import check_together
from random_networks.script import TOGETHER, network_source


def neighbours(seeds: Iterable[int]) -> Iterator[list[int]]:
    """The seeds in groups that have images of one shape."""
    group: list[int] = []
    for seed in seeds:
        if group and seed // TOGETHER != group[0] // TOGETHER:
            yield group
            group = []
        group.append(seed)
    if group:
        yield group


@dataclass(frozen=True)
class Outcome:
    """What is wrong with the networks of a group, by seed, and which operations they consist of."""

    errors: dict[int, str]
    drawn: set[str]


def outcome(seeds: list[int]) -> Outcome:
    """Check the networks of one group."""
    drawn: set[str] = set()
    errors = check_together([network_source(seed) for seed in seeds], drawn)
    return Outcome({seeds[i]: str(error) for i, error in errors.items()}, drawn)


def outcomes(seeds: Iterable[int], jobs: int) -> Iterator[Outcome]:
    """Check the networks of any seeds, in so many processes."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), _prepare) as pool:
        yield from pool.map(outcome, neighbours(seeds))


def _prepare() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
