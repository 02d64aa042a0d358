"""Trials in a process of their own, with limits: it may hang, die or eat memory, and starts anew behind that trial."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

SECONDS = 20.0  # of one trial
START = 300.0  # of the start of a process, which makes the originals
MEMORY = 3 * 2**30  # bytes beside those that the process has at its start
CRASH, HANG, OUT_OF_MEMORY, WRONG, CODE = "CRASH", "HANG", "MEMORY", "WRONG", "CODE"
FAULTS = (WRONG, CRASH, HANG, OUT_OF_MEMORY, CODE)
_EVENTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "os.chmod")


@dataclass(frozen=True)
class Trial:
    """One spoiled file.

    Attributes:
        kind: of file.
        seed: makes it again.
        outcome: what became of it.
        detail: of a fault.
    """

    kind: str
    seed: int
    outcome: str
    detail: str = ""


def trials(kind: str, seeds: range) -> Iterator[Trial]:
    """Try every seed of a kind."""
    left = list(seeds)
    context = multiprocessing.get_context("spawn")
    while left:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(kind, left, there), daemon=True)
        process.start()
        there.close()
        try:
            deadline = START
            while left:
                outcome = _received(here, process, deadline)
                if outcome == "ready":
                    deadline = SECONDS
                    continue
                yield Trial(kind, left.pop(0), *outcome)
                if outcome[0] in (HANG, CRASH, OUT_OF_MEMORY):
                    break
        finally:
            process.kill()
            process.join()


def _received(here: Connection, process: multiprocessing.Process, seconds: float) -> object:
    if not here.poll(seconds):
        return HANG, f"{seconds:.0f} seconds"
    try:
        return here.recv()
    except EOFError:
        process.join(10)
        return CRASH, f"the process ended with {process.exitcode}"


def _work(kind: str, seeds: list[int], there: Connection) -> None:
    from fuzzing.subjects import KINDS

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        subject = KINDS[kind](Path(folder))
        _limit_memory()
        events = _watched()
        there.send("ready")
        for seed in seeds:
            subject.spoil(Random(f"{kind} {seed}"))
            events.clear()
            outcome = _outcome(subject)
            if events or Path("broken-in").exists():
                outcome = CODE, str(events[:3])
            there.send(outcome)
        time.sleep(1)  # until all has been read


def _outcome(subject: object) -> tuple[str, str]:
    from agf_fx.errors import AgfFxError
    from fuzzing.subjects import OTHER, REFUSED

    try:
        found = subject.attempt()
    except AgfFxError as error:
        return REFUSED, str(error)
    except MemoryError:
        return OUT_OF_MEMORY, traceback.format_exc(limit=-3)
    except Exception:  # which is what is looked for
        return CRASH, traceback.format_exc(limit=-4)
    return (WRONG, "") if found == OTHER and not subject.another else (found, "")


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watched() -> list[str]:
    """What a trial does that no reader of data does."""
    events: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _EVENTS:
            events.append(f"{event} {arguments!r}"[:200])

    sys.addaudithook(hook)
    return events
