"""Ranges of seeds."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
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
    """What is wrong with some networks, by seed, which operations they consist of, and how many they are."""

    errors: dict[int, str]
    drawn: set[str]
    count: int


def outcome(seeds: list[int]) -> Outcome:
    """Check the networks of one group."""
    drawn: set[str] = set()
    errors = check_together([network_source(seed) for seed in seeds], drawn)
    return Outcome({seeds[i]: str(error) for i, error in errors.items()}, drawn, len(seeds))


def outcomes(seeds: Iterable[int], jobs: int) -> Iterator[Outcome]:
    """Check the networks of any seeds, in so many processes."""
    groups = list(neighbours(seeds))
    with _pool(jobs) as pool:
        for group, future in [(group, pool.submit(outcome, group)) for group in groups]:
            try:
                yield future.result()
            except BrokenProcessPool:  # a network has ended its process, and all processes with it
                yield from map(_apart, group)


def _apart(seed: int) -> Outcome:
    """Check one network in a process of its own."""
    with _pool(1) as pool:
        try:
            return pool.submit(outcome, [seed]).result()
        except BrokenProcessPool:
            return Outcome({seed: f"its explanation ends the process\n\n{network_source(seed)}"}, set(), 1)


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, get_context("spawn"), _prepare)


def _prepare() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
