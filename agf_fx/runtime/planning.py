"""How many images to explain at once in so much memory, and how long that takes on this machine."""

from __future__ import annotations

import re
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agf_fx.errors import MemoryLimitError, OptionsError
from agf_fx.ir.cost_model import Cost, in_words

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", re.IGNORECASE)
_MOST_IMAGES = 2**20
_FEW = 8  # images of a calibration
_REPEATS = 3


def parsed_bytes(text: str) -> int:
    """Bytes of a size in words: ``16GB`` (10⁹ bytes each), ``16GiB`` (2³⁰), ``500 MB``, or a number of bytes.

    Raises:
        OptionsError: it is none.
    """
    found = _SIZE.fullmatch(text)
    if found is None or found[2].lower() == "i" or float(found[1]) == 0:
        raise OptionsError(f"{text!r} is no size of memory; write 16GB, 16GiB or 500MB.")
    return int(float(found[1]) * _UNITS[found[2].lower()])


@dataclass(frozen=True)
class Plan:
    """How a request fits in memory, and what it takes.

    Attributes:
        memory: bytes that may be used.
        cost: of the largest batch.
        images: the most images that the graph can run on at once in so much memory. More are explained in pieces.
        targets: of each image.
        seconds: that the largest batch takes; None where nothing was measured.
        measured: what was: images -> seconds, on the device of the model.
    """

    memory: int
    cost: Cost
    images: int
    targets: int
    seconds: float | None = None
    measured: tuple[tuple[int, float], ...] = ()

    def __str__(self) -> str:
        cost = self.cost
        lines = [
            f"{cost.title}, {self.targets} {'target' if self.targets == 1 else 'targets'} each, in "
            f"{in_words(self.memory, 'B')}",
            f"  largest batch at once  {self.images} images: {in_words(cost.memory, 'B')} "
            f"(weights {in_words(cost.weight_bytes, 'B')}, prepared {in_words(cost.prepared_bytes, 'B')}, images "
            f"{in_words(cost.image_bytes, 'B')}, peak {in_words(cost.peak, 'B')})",
            f"  operations             {in_words(cost.flops, 'FLOP')}",
            "  more images            are explained too: an explainer takes them in pieces, within its memory_limit",
        ]
        if self.seconds is not None:
            rate = self.images / self.seconds
            lines.append(
                f"  expected time          {_in_time(self.seconds)}, {rate:.3g} images/s, "
                f"{in_words(float(cost.flops) / self.seconds, 'FLOP/s')}"
            )
            told = ", ".join(f"{count} in {_in_time(seconds)}" for count, seconds in self.measured)
            lines.append(f"  calibrated on          {told}, with {torch.get_num_threads()} threads")
        return "\n".join(lines)


def _in_time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"


def largest_batch(cost: Cost, memory: int, targets: int) -> int:
    """The most images whose explanation at once fits, weights and what is prepared from them included.

    Raises:
        MemoryLimitError: not even one does.
    """

    def fits(images: int) -> bool:
        return int(cost(images, targets).memory) <= memory

    if not fits(1):
        raise MemoryLimitError(
            f"explaining one image for {targets} targets takes {in_words(cost(1, targets).memory, 'B')} with the "
            f"weights, more than {in_words(memory, 'B')}; give more memory, fewer targets or smaller images."
        )
    fitting, failing = 1, 2
    while failing <= _MOST_IMAGES and fits(failing):
        fitting, failing = failing, 2 * failing
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        fitting, failing = (middle, failing) if fits(middle) else (fitting, middle)
    return fitting


def planned(
    cost: Cost, memory: int, targets: int, run: Callable[[Tensor, Tensor], object] | None, like: Tensor
) -> Plan:
    """The largest batch that fits, and what it takes by a short calibration.

    Two sizes of batch are timed, one image and a few, of which the time of an operation and of a run follow: seconds =
    a · runs + b · operations. A batch large enough to fill all cores keeps that pace; memory that is slower than small
    batches let expect is not foreseen.

    Args:
        cost: of the explainer, in symbols.
        memory: bytes that may be used.
        targets: of each image.
        run: explains images (N, ...) for targets (N, K); None: nothing is timed.
        like: one image, (1, ...), of the dtype and device that ``run`` takes.

    Raises:
        MemoryLimitError: not even one image fits.
    """
    whole = replace(cost, largest_piece=None)
    images = largest_batch(whole, memory, targets)
    found = whole(images, targets)
    if run is None:
        return Plan(memory, found, images, targets)
    few = min(_FEW, images)
    measured = tuple((count, _seconds(run, like, count, targets)) for count in dict.fromkeys((1, few)))
    per_run, per_operation = _pace(cost, targets, measured)
    pieces = _pieces(cost, images, targets)
    seconds = per_run * pieces + per_operation * float(found.flops)
    return Plan(memory, found, images, targets, seconds, measured)


def _pieces(cost: Cost, images: int, targets: int) -> float:
    """How often the graph runs."""
    at = cost(images, targets)
    (rows, columns), (given, each) = at.piece, at.given
    return float(at.runs) * -(-given // rows) * -(-each // columns)


def _pace(cost: Cost, targets: int, measured: tuple[tuple[int, float], ...]) -> tuple[float, float]:
    """Seconds of a run, and of an operation; of one measurement, all of it is operations."""
    points = [(_pieces(cost, n, targets), float(cost(n, targets).flops), seconds) for n, seconds in measured]
    (runs, flops, seconds), *others = points[::-1]
    if not others:
        return 0.0, seconds / flops
    (few_runs, few_flops, few_seconds) = others[0]
    determinant = runs * few_flops - few_runs * flops
    per_run = (seconds * few_flops - few_seconds * flops) / determinant if determinant else 0.0
    if not 0 <= per_run * runs <= seconds:
        return 0.0, seconds / flops
    return per_run, (seconds - per_run * runs) / flops


def _seconds(run: Callable[[Tensor, Tensor], object], like: Tensor, count: int, targets: int) -> float:
    """The median of a few runs behind a first one, on random images."""
    generator = torch.Generator().manual_seed(count)
    images = torch.rand(count, *like.shape[1:], generator=generator).to(like)
    target = torch.arange(targets, device=like.device).expand(count, targets).contiguous()
    times = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of maps of random weights
        run(images, target)
        for _ in range(_REPEATS):
            started = time.perf_counter()
            run(images, target)
            if like.is_cuda:
                torch.cuda.synchronize(like.device)
            times.append(time.perf_counter() - started)
    return statistics.median(times)
