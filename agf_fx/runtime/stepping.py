"""Methods that move the weights first: one step of gradient descent for each image and target alone."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from agf_fx.ambient import shielded, without_tf32
from agf_fx.errors import CaptureError, InputError, MemoryLimitError
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.text import op_name
from agf_fx.methods.method import Method, Step
from agf_fx.rules.targets import class_of, explained_classes, position_weights, weighted_logits
from agf_fx.runtime.chunks import out_of_memory
from agf_fx.runtime.points import explained
from agf_fx.runtime.program import Program
from agf_fx.runtime.progress import followed, unfollowed
from agf_fx.runtime.weights import Placement, WeightInputs

_DIFFERENTIABLE = ("Autograd", "AutogradCPU", "AutogradCUDA", "CompositeImplicitAutograd")


def explained_with(
    program: Program, method: Method, images: Tensor, target: Tensor, weights: dict[str, Tensor], inputs: WeightInputs
) -> tuple[Tensor, ...]:
    """Explain a batch with a model's weights, or with those that the method's step leads to.

    Args:
        program: the graph of the method.
        method: the method.
        images: (N, C, H, W).
        target: (N, K) int64; a class, or -r for the class of rank r.
        weights: from ``inputs.current``.
        inputs: what prepares them.

    Returns:
        maps (N, K, *spatial), logits (N, classes) of the weights as they are, and what is asked of layers.

    Raises:
        MemoryLimitError: one image with one target is too much.
        CaptureError: PyTorch has no gradient of a call by the weights.
        InputError: there is no step to take, or it leads nowhere.
    """
    if method.step is None:
        prepare = functools.partial(inputs.prepared, weights, program.placement)
        return explained(program, method, images, target, prepare)
    count, targets = target.shape
    follow, inside = (unfollowed, followed) if count * targets == 1 else (followed, unfollowed)
    steps = _steps(program, method.step, images, target, weights)
    logits, found = [], []
    for _, moved in zip(follow(range(count * targets), count * targets, "maps"), steps, strict=True):
        prepare = functools.partial(inputs.prepared_apart, moved.weights, program.placement)
        maps, _, *layers = explained(program, method, moved.image, moved.target, prepare, inside)
        logits.append(moved.logits)
        found.append((maps, *layers))
    maps, *layers = (torch.cat(parts).unflatten(0, (count, targets)).squeeze(2) for parts in zip(*found, strict=True))
    return maps, torch.cat(logits[::targets]), *layers


@dataclass(frozen=True)
class _Moved:
    """Where a step leads.

    Attributes:
        image: (1, C, H, W).
        target: (1, 1), the class.
        logits: (1, classes), before the step.
        weights: placeholder name -> weight behind it, or constant.
    """

    image: Tensor
    target: Tensor
    logits: Tensor
    weights: dict[str, Tensor]


def _steps(
    program: Program, step: Step, images: Tensor, target: Tensor, weights: Mapping[str, Tensor]
) -> Iterator[_Moved]:
    """The steps of all images and, of each image, all targets, in order."""
    canonical, placement = program.canonical, program.placement
    values = _leaves(weights, placement)
    model = _Differentiable(canonical)
    for index, (image, codes) in enumerate(zip(images.split(1), target.split(1), strict=True)):
        with _explaining_failures(canonical), shielded(), without_tf32(), torch.enable_grad():
            logits = model.logits(placement.cast(image), values)
            classes = torch.where(codes < 0, explained_classes(logits.detach(), codes), codes)
            losses = _cross_entropy(canonical, logits, classes).unbind()
        for column, loss in enumerate(losses):
            with _explaining_failures(canonical), shielded(), without_tf32():
                moved = _moved(step, loss, values, f"image {index} towards class {int(classes[0, column])}")
            yield _Moved(image, classes[:, column : column + 1], logits.detach(), moved)


def _leaves(weights: Mapping[str, Tensor], placement: Placement) -> dict[str, Tensor]:
    """The weights in the dtype of the graph. Parameters are copies and leaves, one leaf where they are one tensor."""
    leaves: dict[Any, Tensor] = {}
    found = {}
    for name, weight in weights.items():
        value = placement.cast(weight.detach())
        if isinstance(weight, nn.Parameter) and value.is_floating_point():
            key = weight.data_ptr(), weight.shape, weight.stride()
            found[name] = leaves.setdefault(key, value.clone().requires_grad_())
        else:
            found[name] = value.clone() if value.is_inference() else value  # which autograd cannot keep
    return found


def _cross_entropy(canonical: CanonicalGraph, logits: Tensor, classes: Tensor) -> Tensor:
    """CE(y, t) of one image for each of its targets: (K,). Of logits over positions, those that a target looks at."""
    if canonical.positions:
        shape = (canonical.num_classes, *canonical.positions)
        logits = weighted_logits(logits, position_weights(logits, classes, shape))[:, 0]
        classes = class_of(classes, canonical.num_classes)
    return F.cross_entropy(logits.expand(classes.shape[1], -1), classes[0], reduction="none")


def _moved(step: Step, loss: Tensor, values: dict[str, Tensor], which: str) -> dict[str, Tensor]:
    """θ' = θ - lr · sign · ∇_θ loss; the rest as it is."""
    leaves = {id(value): value for value in values.values() if value.requires_grad}
    if not loss.requires_grad:
        raise InputError("the logits depend on no parameter, so that meta has no step to take; choose another method.")
    gradients = torch.autograd.grad(loss, [*leaves.values()], retain_graph=True, materialize_grads=True)
    if not bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all()):
        raise InputError(
            f"the step of {which} has no finite gradient; check the preprocessing, or explain the image with "
            'precision="float64".'
        )
    moved = {
        key: leaf.detach() - step.lr * step.sign * gradient
        for (key, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }
    return {name: moved.get(id(value), value) for name, value in values.items()}


class _Differentiable(fx.Interpreter):
    """A model as it was captured, in operations that PyTorch differentiates by the weights."""

    def __init__(self, canonical: CanonicalGraph) -> None:
        super().__init__(fx.GraphModule(nn.Module(), canonical.graph))
        self._names = [node.name for node in canonical.graph.find_nodes(op="placeholder")[1:]]

    def logits(self, images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The logits of images, with weights and constants by placeholder name."""
        return self.run(images.clone(), *(values[name] for name in self._names))

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a call.

        Raises:
            CaptureError: it would hand back no gradient, and say nothing.
        """
        given = (leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
        if _is_foreign(target) and not _has_gradient(target) and any(tensor.requires_grad for tensor in given):
            raise CaptureError(_NO_GRADIENT.format(op_name(target)))
        return super().call_function(target, args, kwargs)


_WITHOUT = re.compile(r"derivative for (\S+) is not implemented")
_NO_GRADIENT_OWN = (
    "meta moves weights by PyTorch's gradient, and {} has none; write the model without it, or take a method by itself."
)
_NO_GRADIENT = (
    "meta moves weights by PyTorch's gradient, and {} has none; give it one by torch.library.register_autograd."
)


def _is_foreign(op: Any) -> bool:
    """Whether an operation is not one of PyTorch's own."""
    return isinstance(op, torch._ops.OpOverload) and op.namespace != "aten"


def _has_gradient(op: torch._ops.OpOverload) -> bool:
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), key) for key in _DIFFERENTIABLE)


@contextmanager
def _explaining_failures(canonical: CanonicalGraph) -> Iterator[None]:
    """What PyTorch says of memory, and of operations of others that it cannot differentiate, in words for the user."""
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise MemoryLimitError(
                "memory ran out on the gradient of one image by the weights; free memory, or explain smaller images."
            ) from error
        foreign = [op_name(node.target) for node in canonical.calls if _is_foreign(node.target)]
        if foreign:
            raise CaptureError(f"{_NO_GRADIENT.format(' or '.join(dict.fromkeys(foreign)))} {error}") from error
        if without := _WITHOUT.search(str(error)):
            raise CaptureError(f"{_NO_GRADIENT_OWN.format(without[1])}") from error
        raise
