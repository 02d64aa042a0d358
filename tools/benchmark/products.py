"""The bare products of an explanation: its convolutions and matrix products, and nothing else.

They are recorded while an explanation runs, with the shapes, strides and dtypes they really have (memory formats,
prepared weights and batches in pieces included), and replayed on random tensors. No elementwise optimisation can go
below their time. Products of two batched operands, as in the factorisation of a feature map, are not of the size of a
convolution and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from benchmark.timing import Run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
PRODUCTS = frozenset((aten.convolution, aten._convolution, aten.convolution_backward, aten.mm, aten.addmm))


@dataclass(frozen=True)
class Layout:
    """A tensor without its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def random(self) -> Tensor:
        """A tensor of this layout; what was expanded is expanded."""
        own = [1 if stride == 0 else size for size, stride in zip(self.shape, self.stride, strict=True)]
        base = torch.empty_strided(own, self.stride, dtype=self.dtype, device=self.device)
        return base.normal_().expand(self.shape)


def layout(tensor: Tensor) -> Layout:
    """The layout of a tensor."""
    return Layout(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype, tensor.device)


@dataclass(frozen=True)
class Product:
    """One recorded call, layouts in place of tensors."""

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Recorder(TorchDispatchMode):
    """Records the products that run while it is on."""

    observes = True

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in PRODUCTS:
            self.products.append(Product(func, *tree_map_only(Tensor, layout, (args, kwargs or {}))))
        return func(*args, **(kwargs or {}))


def products_of(run: Run) -> list[Product]:
    """The products of a run."""
    with torch.no_grad(), Recorder() as recorder:
        run()
    return recorder.products


def bare(products: list[Product]) -> Run:
    """A run of these products alone. Tensors of equal layout are shared, which favours it."""
    pool: dict[Layout, Tensor] = {}

    def tensor(kind: Layout) -> Tensor:
        if kind not in pool:
            pool[kind] = kind.random()
        return pool[kind]

    calls = [(p.target, *tree_map_only(Layout, tensor, (p.args, p.kwargs))) for p in products]

    @torch.inference_mode()
    def run() -> None:
        for target, args, kwargs in calls:
            target(*args, **kwargs)

    return run


def work(products: list[Product]) -> int:
    """Floating-point operations of these products, counted from their shapes."""

    def on_meta(kind: Layout) -> Layout:
        return replace(kind, device=torch.device("meta"))

    moved = [Product(p.target, *tree_map_only(Layout, on_meta, (p.args, p.kwargs))) for p in products]
    with FlopCounterMode(display=False) as counter:
        bare(moved)()
    return counter.get_total_flops()
