"""What runs an explanation graph: PyTorch operation by operation, or compiled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from agf_fx.errors import OptionsError
from agf_fx.ir.graph import ExplanationGraph
from agf_fx.store.locks import COMPILER

_INDUCTOR_FOLDER = "TORCHINDUCTOR_CACHE_DIR"

Runner = Callable[..., tuple[Tensor, Tensor]]

# Compiled once with these sizes, which are unequal and neither 0 nor 1: PyTorch treats 0, 1 and equal sizes as special.
_EXAMPLE_IMAGES, _EXAMPLE_TARGETS = 3, 2


def choose(backend: str, device: torch.device) -> str:
    """The backend that ``"auto"`` stands for on ``device``: eager; any other name is itself.

    Inductor takes one to two minutes to compile a ResNet-50, and then saves 5 % of each call on a CPU and a quarter on
    an H100: whether that pays, which takes many thousands of images, the caller knows and this function does not.

    Raises:
        OptionsError: the backend cannot run on the device.
    """
    if backend == "auto":
        return "eager"
    if backend == "cudagraphs" and device.type != "cuda":
        raise OptionsError(f'backend="cudagraphs" needs a CUDA device, and the model is on {device}; use "inductor".')
    return backend


def runner(backend: str, explanation: ExplanationGraph, artefacts: Path | None = None) -> Runner:
    """A function ``(images, target, *inputs) -> (maps, logits)`` that runs the graph.

    Args:
        backend: ``"eager"``, ``"inductor"`` (one compilation serves every number of images and targets) or
            ``"cudagraphs"`` (one recording for each).
        explanation: the graph.
        artefacts: where Inductor keeps what it has compiled, and looks for it; None: where it does so by default.
    """
    if backend == "eager":
        return explanation.module.forward  # a call of the module itself would meet a trace that another thread runs
    if backend == "cudagraphs":
        return torch.compile(explanation.module, fullgraph=True, dynamic=False, backend="cudagraphs")
    return _Inductor(explanation, artefacts)


class _Inductor:
    """`torch.compile` with symbolic numbers of images and targets.

    The first call compiles, on an example of unequal sizes above 1. PyTorch would guard the result against sizes 0 and
    1, and against sizes at which it would choose another convolution kernel, and compile again; the graph needs none
    of these guards, and what they would protect (dtype, image size, device, layout of the inputs) is fixed by the
    program that owns this runner. So guards are dropped.

    Memory formats are the graph's own. Inductor's layout optimisation is off: it takes every four-dimensional tensor
    near a convolution for images, and stored features of the shape (K, N, C, P) with their images innermost.
    """

    def __init__(self, explanation: ExplanationGraph, artefacts: Path | None) -> None:
        self._run = torch.compile(
            explanation.module,
            fullgraph=True,
            dynamic=None,
            options={"guard_filter_fn": torch.compiler.skip_all_guards_unsafe, "layout_optimization": False},
        )
        self._artefacts = artefacts
        self._compiled = False

    def __call__(self, images: Tensor, target: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        if not self._compiled:
            with COMPILER:
                if not self._compiled:
                    with _kept_in(self._artefacts):
                        self._compile(images, target, inputs)
                    self._compiled = True
        return self._run(images, target, *inputs)

    def _compile(self, images: Tensor, target: Tensor, inputs: tuple[Tensor, ...]) -> None:
        channels_last = images.dim() == 4 and not images.is_contiguous()
        example = images.new_zeros([_EXAMPLE_IMAGES, *images.shape[1:]])
        if channels_last:
            example = example.contiguous(memory_format=torch.channels_last)
        classes = target.new_zeros([_EXAMPLE_IMAGES, _EXAMPLE_TARGETS])
        torch._dynamo.mark_dynamic(example, 0)
        torch._dynamo.mark_dynamic(classes, 0)
        torch._dynamo.mark_dynamic(classes, 1)
        for tensor in inputs:
            torch._dynamo.mark_static(tensor)
        self._run(example, classes, *inputs)


@contextmanager
def _kept_in(folder: Path | None) -> Iterator[None]:
    """Let Inductor keep its artefacts in ``folder`` during the block, unless the user has named a place for them."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    before = os.environ.get(_INDUCTOR_FOLDER)
    if folder is None or before not in (None, default_cache_dir()):
        yield
        return
    os.environ[_INDUCTOR_FOLDER] = str(folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_INDUCTOR_FOLDER, None)
        else:
            os.environ[_INDUCTOR_FOLDER] = before
