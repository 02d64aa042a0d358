"""One compiled image size of an architecture: the graph, and what runs it. It knows no weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from agf_fx.ambient import shielded, without_tf32
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.ir.liveness import copies, largest_per_pair, peak_bytes
from agf_fx.options import CompileOptions
from agf_fx.runtime.backends import runner
from agf_fx.runtime.chunks import Limits, run_in_chunks
from agf_fx.runtime.weights import Placement, WeightInputs

# glibc keeps freed blocks up to this size; larger ones go back to the system, and cost page faults at every operation.
REUSED_ALLOCATION = 32 * 2**20


class Program:
    """An explanation graph ready to run, shared by all explainers of its architecture.

    With ``small_pieces``, images are explained so few at a time that the largest tensors stay below what the CPU's
    allocator reuses, unless ``options.max_batch`` says otherwise.

    ``artefacts`` is where Inductor keeps what it compiles.

    Attributes:
        canonical: the captured model.
        explanation: the graph.
        key: identifies architecture, method, options and placement.
        placement: dtype and memory format in which the graph runs, and whether in TF32.
        copied: what convolutions copy where it runs.
        limits: what is explained at once.
    """

    def __init__(
        self,
        canonical: CanonicalGraph,
        explanation: ExplanationGraph,
        *,
        key: str = "",
        backend: str = "eager",
        placement: Placement | None = None,
        options: CompileOptions | None = None,
        small_pieces: bool = False,
        on_cpu: bool = True,
        artefacts: Path | None = None,
    ) -> None:
        options = options or CompileOptions()
        self.canonical = canonical
        self.explanation = explanation
        self.key = key
        self.placement = placement or Placement(canonical.image_type.dtype, channels_last=False)
        self.copied = copies(self.placement.dtype, self.placement.channels_last, on_cpu)
        self.limits = Limits(options.max_batch, options.memory_limit, self._estimate)
        if small_pieces and options.max_batch is None:
            self.limits.preferred = max(1, REUSED_ALLOCATION // self._bytes(largest_per_pair(explanation)))
        self._runner = runner(backend, explanation, artefacts)

    def inputs(self, model: nn.Module) -> list[Tensor]:
        """What the graph takes after images and target, read from a model and prepared at this very call.

        Raises:
            InputError: the model lacks a parameter, or has it in another shape.
        """
        weights = WeightInputs(self.canonical, self.explanation)
        return weights.prepared(weights.current(model), self.placement)

    def run(self, images: Tensor, target: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Explain a batch of any size, in pieces where it has to be.

        Args:
            images: (N, C, H, W), in the model's dtype.
            target: (N, K) int64; a class, or -r for the class of rank r.
            inputs: from `agf_fx.runtime.weights.WeightInputs.prepared`.

        Returns:
            Maps (N, K, *spatial), logits (N, classes), and what the graph says of layers besides, in the dtype of the
            placement.

        Raises:
            MemoryLimitError: one image with one target is too much.
        """

        def explain(piece: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
            arranged = self.placement.arrange(self.placement.cast(piece))
            return self._runner(arranged, classes.contiguous(), *inputs)

        with shielded(), without_tf32(not self.placement.tf32):
            per_target = (True, False, *(layer.per_target for layer in self.explanation.layer_outputs))
            return run_in_chunks(explain, images, target, self.limits, per_target)

    def _estimate(self, images: int, targets: int) -> int:
        return self._bytes(self._peak_bytes(images, targets) + images * self._rearranged)

    @property
    def rearranges(self) -> bool:
        """Whether the graph runs on a copy of the images, in another memory format than they come in."""
        return self.placement.channels_last and self.canonical.image_type.rank == 4

    @property
    def _rearranged(self) -> int:
        """Bytes of the copy of one image."""
        kind = self.canonical.image_type
        return kind.sample_size * kind.dtype.itemsize if self.rearranges else 0

    def _bytes(self, captured: int) -> int:
        """Bytes in this placement, of what takes so many in the dtype of the captured model."""
        return captured * self.placement.dtype.itemsize // self.canonical.image_type.dtype.itemsize

    @functools.cached_property
    def _peak_bytes(self) -> Callable[[int, int], int]:
        return peak_bytes(self.explanation, self.copied)
