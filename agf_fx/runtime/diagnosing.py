"""The maps and weights that a diagnosis looks at: what of it knows how programs run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from agf_fx.inspect.diagnosis import Case, Diagnosis, MapDiagnosis, checked
from agf_fx.methods import REGISTRY
from agf_fx.methods.method import Method
from agf_fx.rules.targets import class_of, explained_classes, mean_logits
from agf_fx.runtime.binding import Bound
from agf_fx.runtime.stepping import explained_with

Exact = Callable[[Tensor, Tensor], Tensor]
"""(images (N, C, ...), target codes (N, K)) -> maps (N, K, *spatial) in float64."""


def diagnosed(
    bound: Bound, method: Method, images: Tensor, codes: Tensor, weights: dict[str, Tensor], exact: Exact
) -> Diagnosis:
    """Ask every question of the map of every image and target, one at a time.

    Args:
        bound: the program, and what prepares its weights.
        method: the method.
        images: (N, C, ...).
        codes: (N, K) int64; a class, or -r for the class of rank r.
        weights: from ``bound.weights.current``.
        exact: see there.
    """
    canonical, placement = bound.program.canonical, bound.program.placement

    def explain(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        maps, logits, *_ = explained_with(bound.program, method, image, target, weights, bound.weights)
        return maps, logits

    known = REGISTRY[method.name].properties if method.name in REGISTRY else None

    def cases() -> Iterator[MapDiagnosis]:
        for index, (image, asked) in enumerate(zip(images.split(1), codes.split(1), strict=True)):
            maps, logits = explain(image, asked)
            classes = torch.where(asked < 0, explained_classes(logits, asked), asked)
            means = mean_logits(logits)[0] if logits.dim() > 2 else logits[0]
            for column, code in enumerate(classes[0].tolist()):
                others = torch.tensor([_others(code, means)], dtype=torch.int64, device=image.device)
                case = Case(
                    canonical=canonical,
                    method=method,
                    class_specific=None if known is None else known.class_specific,
                    reaches_input=known is None or known.reaches_input,
                    image=placement.cast(image),
                    logits=means,
                    target=code,
                    others=tuple(others[0].tolist()),
                    drawn=maps[0, column].double(),
                    drawn_of_others=explain(image, others)[0][0].double() if others.numel() else maps[0, :0],
                    exact=None if placement.dtype is torch.float64 else _of_one(exact, image, code),
                    again=lambda moved, code=code: explain(moved.to(images.dtype), _one(code, moved))[0][0, 0].double(),
                    weights=lambda dtype: {name: _in(dtype, weight) for name, weight in weights.items()},
                )
                chosen = code if logits.dim() == 2 else int(class_of(torch.tensor(code), len(means)))
                yield MapDiagnosis(index, code, float(means[chosen]), checked(case))

    return Diagnosis(canonical.name, method.name, tuple(cases()))


def _one(code: int, like: Tensor) -> Tensor:
    return torch.tensor([[code]], device=like.device)


def _of_one(exact: Exact, image: Tensor, code: int) -> Callable[[], Tensor]:
    return lambda: exact(image, _one(code, image))[0, 0].double()


def _in(dtype: torch.dtype, weight: Tensor) -> Tensor:
    return weight.detach().to(dtype) if weight.is_floating_point() else weight.detach()


def _others(code: int, logits: Tensor) -> list[int]:
    """Codes of the strongest and the weakest other class, at the same place."""
    classes = len(logits)
    own = code % classes
    ranked = [index for index in logits.argsort(descending=True, stable=True).tolist() if index != own]
    return [code - own + index for index in dict.fromkeys((*ranked[:1], *ranked[-1:]))]
