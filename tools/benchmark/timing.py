"""Timing in turns: every run once a round, medians over the rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Run = Callable[[], object]


def timed(run: Run, device: torch.device) -> float:
    """Seconds of one run, the device's queue empty before and after."""
    synchronise(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU has still to do; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(runs: Mapping[str, Run], repeats: int, device: torch.device, minimum: float) -> dict[str, list[float]]:
    """Seconds of every run in every round, after one round of warm-up.

    Runs are taken in turns, so that a machine that slows down slows all of them down. A run shorter than ``minimum``
    seconds is repeated within its turn until that time has passed, and its turn counts as the mean.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            mean = _turn(run, device, minimum)
            if turn:
                seconds[name].append(mean)
    return seconds


def _turn(run: Run, device: torch.device, minimum: float) -> float:
    total, count = 0.0, 0
    while not count or total < minimum:
        total += timed(run, device)
        count += 1
    return total / count


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of every run."""
    return {name: statistics.median(values) for name, values in seconds.items()}
