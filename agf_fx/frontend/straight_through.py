"""Gradients that are not the derivative of the function: straight-through estimators."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from agf_fx.errors import CaptureError
from agf_fx.frontend.outputs import Root
from agf_fx.frontend.running import run
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import Family, depends_on_images, family_of, operands
from agf_fx.notices import warn

aten = torch.ops.aten

_STOPS = (Tensor.detach, torch.detach, Tensor.detach_, Tensor.data.__get__, torch._C._set_grad_enabled)
_TOLERANCE = 1e-3  # of the largest gradient


class _Stops(TorchFunctionMode):
    """Notices where a forward pass stops gradients."""

    found = False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.found |= func in _STOPS
        return func(*args, **(kwargs or {}))


class Trained(NamedTuple):
    """What autograd says of a model at some images.

    Attributes:
        gradient: of the mean of logits weighted by 1, 2, 3, …; 0 where autograd does not reach the images.
        custom: each ``autograd.Function`` that takes part, and where it stands.
    """

    gradient: Tensor
    custom: list[str]


def observed_logits(root: Root, images: Tensor) -> tuple[Tensor, Trained | None]:
    """The model's logits; and, where its gradient may not be the derivative, what autograd says.

    That is where it uses ``detach`` or ``no_grad``, or an ``autograd.Function``.
    """
    for weight in root.parameters():
        weight.requires_grad_(False)
    stops = _Stops()
    try:
        with torch.enable_grad(), stops:
            leaf = images.clone().requires_grad_()
            logits = root(leaf.clone())
    except RuntimeError:  # it writes in place where autograd does not let it
        with torch.no_grad():
            return root(images.clone()).clone(), None
    custom = _custom_functions(logits)
    suspicious = (custom or stops.found) and logits.is_floating_point()
    gradient = _gradient(logits, leaf) if suspicious else None
    return logits.detach().clone(), None if gradient is None else Trained(gradient, custom)


def check_gradient(canonical: CanonicalGraph, model: nn.Module, images: Tensor, trained: Trained) -> None:
    """Check that a program's derivative is the gradient that training uses, where these may differ.

    ``detach`` and ``no_grad`` are looked through, as they stop training and not the function; and so nothing is asked
    where the model has no gradient at all, nor of branches that are merely cut off. But in x + (f(x) - x).detach() the
    gradient is meant to be that of x, where the function is f; and an ``autograd.Function`` may have any backward.

    Args:
        canonical: the program.
        model: where its weights are.
        images: a batch.
        trained: the model's gradient, from `observed_logits`.

    Raises:
        CaptureError: they differ; the line where the two meet.
    """
    if not trained.gradient.any():
        return
    with torch.enable_grad():
        leaf = images.clone().requires_grad_()
        found = _gradient(run(canonical, model, leaf), leaf)
    if found is None:
        return
    tolerance = _TOLERANCE * float(trained.gradient.abs().max())
    if torch.allclose(found, trained.gradient, rtol=_TOLERANCE, atol=tolerance, equal_nan=True):
        return
    place = _cancelling(canonical)
    if place is None and not trained.custom:
        warn(
            f"{canonical.name} stops gradients in a part of its forward pass (detach or no_grad), which is looked "
            "through: what is explained is the function that it computes, whose derivative is not the gradient that it "
            "trains with.",
            UserWarning,
        )
        return
    lines = [place.meta["source"]] if place is not None and place.meta.get("source") else []
    lines = "".join(f"\n  at {line}" for line in lines + trained.custom)
    raise CaptureError(
        f"the gradient that {canonical.name} trains with is not the derivative of what it computes: it has a "
        "straight-through estimator, x + (f(x) - x).detach(), or an autograd.Function with a backward of its own. An "
        "explanation would be of the derivative, which is 0 where f has steps. Put a function with a derivative in its "
        f"place, such as the one that the backward belongs to.{lines}"
    )


def _gradient(logits: Tensor, leaf: Tensor) -> Tensor | None:
    """None where an operation has no derivative, which other checks judge."""
    if not logits.requires_grad:
        return torch.zeros_like(leaf)
    flat = logits.detach().flatten(1)
    weights = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=flat.dtype).expand_as(flat) / flat.numel()
    try:
        (gradient,) = torch.autograd.grad(logits, leaf, weights.reshape(logits.shape), allow_unused=True)
    except (RuntimeError, NotImplementedError):
        return None
    return torch.zeros_like(leaf) if gradient is None else gradient


def _custom_functions(logits: Tensor) -> list[str]:
    """Each ``autograd.Function`` that took part in computing a tensor, and the line of its backward."""
    seen: set[object] = set()
    found: dict[str, None] = {}
    pending = [logits.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found.setdefault(_described(node._forward_cls))
        seen.add(node)
        pending.extend(parent for parent, _ in node.next_functions)
    return list(found)


def _described(function: type[torch.autograd.Function]) -> str:
    code = getattr(function.backward, "__code__", None)
    place = f"{code.co_filename}:{code.co_firstlineno}: " if code else ""
    return f"{place}{function.__qualname__}.backward"


def _cancelling(canonical: CanonicalGraph) -> fx.Node | None:
    """A sum of u and something from which u is taken away: the estimator's u + (f - u), in any order."""
    same: dict[str, fx.Node] = {}  # what is computed twice is one value
    first: dict[fx.Node, fx.Node] = {}
    for node in canonical.calls:
        args = fx.map_arg(node.args, lambda source: first.get(source, source))
        first[node] = same.setdefault(f"{node.target} {args} {node.kwargs}", node)
        if not depends_on_images(node) or family_of(node) is not Family.MERGE:
            continue
        added, taken = ({first.get(term, term) for term in terms} for terms in _terms(node, 1))
        if added & taken:
            return node
    return None


def _terms(value: Any, sign: int) -> tuple[set[Any], set[Any]]:
    """What is added and what is taken away in a chain of sums and differences of two signals."""
    merges = isinstance(value, fx.Node) and value.op == "call_function" and depends_on_images(value)
    if not merges or value.target not in (aten.add.Tensor, aten.sub.Tensor, aten.neg.default):
        return ({value}, set()) if sign > 0 else (set(), {value})
    if value.target is aten.neg.default:
        return _terms(value.args[0], -sign)
    first, second = operands(value)
    one = _terms(first, sign)
    two = _terms(second, -sign if value.target is aten.sub.Tensor else sign)
    return one[0] | two[0], one[1] | two[1]
