"""Ranges of seeds."""

from __future__ import annotations

import itertools
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
from random_networks.spelling import Worst, compare, pairs


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


def pair_outcomes(seeds: range, jobs: int) -> Iterator[tuple[int, Worst, dict[int, str]]]:
    """Compare the pairs of any seeds, in so many processes: how many, the worst of them, and what is wrong by seed."""
    groups = [list(seeds[i : i + pairs.TOGETHER]) for i in range(0, len(seeds), pairs.TOGETHER)]
    with _pool(jobs) as pool:
        for group, future in [(group, pool.submit(_compared, group)) for group in groups]:
            yield len(group), *future.result()


def _compared(seeds: list[int]) -> tuple[Worst, dict[int, str]]:
    worst, errors = Worst(), {}
    for _, group in itertools.groupby(seeds, lambda seed: seed // pairs.TOGETHER):  # images of one shape
        found, wrong = compare([pairs.pair(seed) for seed in group])
        worst, errors = worst | found, errors | wrong
    return worst, errors


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
