"""Methods that search for a map step by step, for all images and targets side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agf_fx.ambient import without_tf32
from agf_fx.methods.method import Search, Seeker, Trace
from agf_fx.rules.targets import class_of, logits_looked_at
from agf_fx.runtime.program import Program
from agf_fx.runtime.progress import bar

AT_ONCE = 32  # rows: enough to fill a processor


def searched(
    program: Program, search: Search, trace: Trace, classes: Tensor, inputs: list[Tensor], *, silent: bool = False
) -> Tensor:
    """Search for the maps of a batch.

    A row is one run of one image with one target. Rows go in groups that fit in the memory limit, each from its first
    step to its last; rows that have stopped leave their group.

    Args:
        program: the compiled gradient of the score at the images.
        search: what is done with it.
        trace: of the images (N, ...) and the baseline alone.
        classes: (N, K) int64, as in `agf_fx.rules.targets`.
        inputs: what the program takes besides.
        silent: whether somebody else says how far it is.

    Returns:
        Maps (N, K, *spatial) in the dtype of the program.

    Raises:
        MemoryLimitError: one image with one target is too much.
    """
    count, targets = classes.shape
    rows = torch.arange(count * targets * search.runs, device=classes.device)
    found: list[Tensor] = []
    with without_tf32(not program.placement.tf32), bar(len(rows) * search.steps, "steps", silent=silent) as reached:
        for group in rows.split(_at_once(program, search, trace, len(rows))):
            images = trace.images[group // (targets * search.runs)]
            seen = replace(trace, values={**trace.values, trace.canonical.images.name: images})
            seeker, target = search.begin(seen, group % search.runs), classes.reshape(-1, 1)[group // search.runs]
            done = sum(map(len, found)) * search.steps
            found.append(_sought(program, search, seeker, target, inputs, _further(reached, done, len(group))))
    maps = torch.cat(found)
    return maps.reshape(count, targets, search.runs, *maps.shape[1:]).sum(2)


def _at_once(program: Program, search: Search, trace: Trace, rows: int) -> int:
    """How many rows a group has: as many as the program takes in one piece, with what they hold themselves."""
    held = search.held * trace.images[0].nbytes
    own = replace(
        program.limits, estimate=lambda images, targets: program.limits.estimate(images, targets) + images * held
    )
    return own.largest_piece(min(rows, AT_ONCE), 1)[0]


def _further(reached: Callable[[int], None], done: int, rows: int) -> Callable[[int], None]:
    """What is told how many steps a group of rows has made, where so many row's steps were done before."""
    return lambda steps: reached(done + steps * rows)


def _sought(
    program: Program,
    search: Search,
    seeker: Seeker,
    target: Tensor,
    inputs: list[Tensor],
    reached: Callable[[int], None],
) -> Tensor:
    """The maps (R, *spatial) of a group of rows with targets (R, 1), from the first step to the last."""
    rows, waiting = torch.arange(len(target), device=target.device), Waiting(search)
    stopped: list[tuple[Tensor, Tensor]] = []
    for step in range(search.steps):
        gradient, logits = program.run(seeker.images(step), target, inputs)
        score = search.score(logits_looked_at(logits, target)[0], class_of(target, logits.shape[1]))
        going = waiting.going(seeker.advance(step, score, gradient[:, 0]))
        reached(step + 1)
        if going is None:
            continue
        stopped.append((rows[~going], seeker.maps()[~going]))
        rows, target = rows[going], target[going]
        seeker.keep(going.nonzero()[:, 0])
        if not len(rows):
            break
    else:
        stopped.append((rows, seeker.maps()))
    order, maps = (torch.cat(parts) for parts in zip(*stopped, strict=True))
    return maps[order.argsort()]


@dataclass
class Waiting:
    """For how many steps rows have not become better.

    Attributes:
        search: says from when on that is too long.
        best: the smallest loss of each row, (R,); None before the first step.
        steps: since when, (R,) int64.
    """

    search: Search
    best: Tensor | None = None
    steps: Tensor | None = None

    def going(self, loss: Tensor) -> Tensor | None:
        """Which rows go on after a step with ``loss`` (R,), which then are all that there are; None: all of them."""
        if self.search.tolerance is None:
            return None
        if self.best is None:
            self.best, self.steps = loss, torch.zeros_like(loss, dtype=torch.int64)
            return None
        better = loss < self.best - self.search.tolerance * self.best.abs()
        self.best = torch.where(better, loss, self.best)
        self.steps = torch.where(better, 0, self.steps + 1)
        going = self.steps < self.search.patience
        if bool(going.all()):
            return None
        self.best, self.steps = self.best[going], self.steps[going]
        return going
