"""Trials of captured derivatives on random numbers, before they are used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn

from agf_fx.frontend.calls import Call, Unfit
from agf_fx.frontend.derivatives import scaled
from agf_fx.ir.captured import CapturedVjp
from agf_fx.ir.graph import CanonicalGraph, tensor_at
from agf_fx.ir.types import TensorType, carried_type

_IMAGES, _TARGETS = 3, 2

Draw = Callable[[list[int]], Tensor]


class Trial:
    """Tries captured products on random numbers against autograd, and operations one sample at a time."""

    def __init__(self, canonical: CanonicalGraph, model: nn.Module, device: torch.device) -> None:
        self._signature = canonical.signature
        self._model = model
        self._device = device
        self._random = torch.Generator().manual_seed(0)

    def check(self, call: Call, captured: CapturedVjp) -> None:
        """Check that the call treats samples separately, and that ``captured`` is its derivative.

        Raises:
            Unfit: it does not, or is not, or the derivative is zero, or the operation cannot be run.
        """
        try:
            trials = [self._tried(call, captured, self._unit)]
            with contextlib.suppress(ArithmeticError, RuntimeError, ValueError):  # outside the operation's domain
                trials.append(self._tried(call, captured, self._wide))
        except Unfit:
            raise
        except Exception as error:  # whatever an operation raises on these numbers
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise Unfit(f"it cannot be tried on random numbers ({reason}).") from error
        if not any(trials):
            raise Unfit("its derivative is zero.")

    def _tried(self, call: Call, captured: CapturedVjp, draw: Draw) -> bool:
        """Whether any gradient is not zero."""
        values = [self._value(node, _IMAGES, draw) for node in call.tensors]
        with torch.no_grad():
            y = call.run(list(values))
            if _aliases(y, values) and all(result.alias_info is None for result in call.node.target._schema.returns):
                raise Unfit("its result lies in the memory of an argument, and its schema does not say so.")
            for i in range(_IMAGES):
                parts = zip(call.tensors, values, strict=True)
                alone = [_sample(v, n.meta["type"], i) if _varies(n) else self._value(n, 1, draw) for n, v in parts]
                if not _close(call.run(alone), _sample(y, carried_type(call.node), i)):
                    raise Unfit(
                        "a sample alone gives another result: it mixes the samples of a batch, or keeps a state."
                    )
        g = torch.rand((_TARGETS, *y.shape), generator=self._random, dtype=y.dtype).to(y.device)
        with torch.no_grad():
            together = captured(values, g, _TARGETS)
        for k in range(_TARGETS):
            for found, expected in zip(together, call.gradients(*values, g[k]), strict=True):
                if expected is not None and not _close(found[k], expected):
                    raise Unfit("its captured derivative is not its derivative.")
        return any(bool((gradient != 0).any()) for gradient in together if gradient is not None)

    def _value(self, node: fx.Node, images: int, draw: Draw) -> Any:
        """A random value where ``node`` differs from image to image, else its value."""
        kind = node.meta["type"]
        if isinstance(kind, sympy.Expr):
            return scaled(kind, images)
        if _varies(node):
            drawn = draw([scaled(extent, images) for extent in kind.shape])
            return (drawn > 0.5 if kind.dtype is torch.bool else drawn).to(self._device, kind.dtype)
        if node.name in self._signature.constants:
            return self._signature.constants[node.name]
        if node.op == "placeholder":
            return tensor_at(self._model, self._signature.weights[node.name]).detach()
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: self._value(source, images, draw))
        return node.target(*args, **kwargs)

    def _unit(self, shape: list[int]) -> Tensor:
        return torch.rand(shape, generator=self._random, dtype=torch.float64) * 0.8 + 0.1

    def _wide(self, shape: list[int]) -> Tensor:
        return torch.randn(shape, generator=self._random, dtype=torch.float64) * 3.0


def _varies(node: fx.Node) -> bool:
    """Whether a value may differ from image to image: a signal, or a mask made of one."""
    kind = node.meta["type"]
    return isinstance(kind, TensorType) and kind.batch_dim is not None


def _sample(value: Tensor, kind: TensorType, index: int) -> Tensor:
    """One image's part of a value."""
    each = value.shape[kind.batch_dim] // _IMAGES
    return value.narrow(kind.batch_dim, index * each, each)


def _aliases(y: Tensor, values: list[Any]) -> bool:
    return any(
        isinstance(value, Tensor) and value.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()
        for value in values
    )


def _close(found: Tensor, expected: Tensor) -> bool:
    """Up to rounding, and NaN where NaN is expected."""
    if found.shape != expected.shape:
        return False
    finite = expected[torch.isfinite(expected)]
    size = float(finite.abs().max()) if finite.numel() else 1.0
    tolerance = 1e3 * torch.finfo(expected.dtype).eps
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * size, equal_nan=True)
