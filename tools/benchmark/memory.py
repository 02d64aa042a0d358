"""Peak memory of one run, counted in three ways that do not depend on each other.

* *live tensors*: bytes of the tensor storages that operations made and that are still referenced (CPU; exact, but blind
  to memory inside kernels, and to code that does not go through PyTorch's dispatcher, such as compiled code);
* *allocator*: bytes held from PyTorch's allocator, scratch space of kernels included;
* *RSS growth*: pages of the process at the peak, beyond those before the run (Linux, CPU; coarse).

What existed before the run (weights, prepared constants, the images) is not counted; what the run returns is.
"""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from benchmark.timing import Run
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(run: Run, device: torch.device, backend: str = "eager") -> dict[str, int | None]:
    """Peak bytes of a run that has run before: ``live``, ``allocator`` and ``rss_growth``, None where unknown.

    Args:
        run: what to measure; it runs up to three times.
        device: where it runs.
        backend: what runs it. Only the operations of the eager backend all go through the dispatcher, and CUDA graphs
            keep their memory between calls, so that a call allocates nothing.
    """
    gc.collect()
    if device.type == "cuda":
        allocator = None if backend == "cudagraphs" else cuda_peak(run, device)
        return {"live": None, "allocator": allocator, "rss_growth": None}
    return {
        "live": live_peak(run) if backend == "eager" else None,
        "allocator": allocator_peak(run),
        "rss_growth": rss_growth(run),
    }


class LiveBytes(TorchDispatchMode):
    """Follows the storages that operations make while it is on: ``live`` bytes now, and their ``peak``."""

    observes = True

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._storages: dict[int, tuple[weakref.ref, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):
            self._follow(storage, 0)  # made before: costs nothing here
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            self._follow(storage, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _follow(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key not in self._storages:
            self.live += size
            self._storages[key] = (weakref.ref(storage, lambda _: self._forget(key)), size)

    def _forget(self, key: int) -> None:
        self.live -= self._storages.pop(key)[1]


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    for value in tree_leaves(values):
        if isinstance(value, torch.Tensor) and value.layout is torch.strided:
            yield value.untyped_storage()


def live_peak(run: Run) -> int:
    """Peak bytes of the tensors that a run makes and still refers to."""
    with LiveBytes() as tracker:
        run()
    return tracker.peak


def allocator_peak(run: Run) -> int:
    """Peak bytes that a run holds from PyTorch's CPU allocator, from the profiler's record of every allocation."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        run()
    kind = torch._C._profiler._EventType.Allocation
    events = [event for event in _tree(profile.kineto_results.experimental_event_tree()) if event.tag == kind]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_time_ns):
        if event.extra_fields.device.type == "cpu":
            held += event.extra_fields.alloc_size  # negative where memory is freed
            peak = max(peak, held)
    return peak


def _tree(events: list[Any]) -> Iterator[Any]:
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        yield event
        waiting.extend(event.children)


def cuda_peak(run: Run, device: torch.device) -> int:
    """Peak bytes that a run holds from PyTorch's CUDA allocator."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def rss_growth(run: Run) -> int | None:
    """Resident memory at the peak of a run beyond what was resident before it; None outside Linux."""
    if not _CLEAR.exists():
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)  # pages that the heap keeps for later would hide growth
        _CLEAR.write_text("5")  # resets the high-water mark
    except (OSError, AttributeError):
        return None
    before = _resident("VmRSS")
    run()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
