"""Explanations of self-supervised networks: Gur, Ali and Wolf, AAAI 2021, Alg. 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agf_fx.errors import InputError, OptionsError
from agf_fx.frontend.wrappers import unwrapped
from agf_fx.options import require_one_of
from agf_fx.runtime.explainer import Explainer, compile
from agf_fx.runtime.explanation import Explanation
from agf_fx.runtime.inputs import as_batch
from agf_fx.ssl.encoder import Encoder
from agf_fx.ssl.memory import MemoryBank
from agf_fx.ssl.neighbours import Neighbours

Combine = Literal["difference", "sum", "none"]
COMBINATIONS: tuple[Combine, ...] = ("difference", "sum", "none")


@dataclass(frozen=True, repr=False)
class SelfSupervisedExplanation(Explanation):
    """Heat maps of N images, (N, 1, H, W), for a class of the network's own task each; see `Explanation`.

    Attributes:
        target: (N, 1) int64, t = argmax v, of the combined latent vector.
        logits: (N, classes), of the images themselves.
        combined_logits: (N, classes), v = φ_τ(S), of the combined latent vector.
        neighbour: (N,) int64, the number of the nearest neighbour in the memory bank; -1 without one.
        neighbour_ids: its id, where the bank has ids.
        distance: (N,) float64, of the latent vectors; NaN without a neighbour.
        latents: (N, D), of the images.
        combine: how the two latent vectors became one.
    """

    combined_logits: Tensor = field(default_factory=lambda: torch.empty(0))
    neighbour: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    neighbour_ids: tuple[str, ...] | None = None
    distance: Tensor = field(default_factory=lambda: torch.empty(0))
    latents: Tensor = field(default_factory=lambda: torch.empty(0))
    combine: str = "difference"


def explain(
    model: nn.Module | Explainer,
    images: Tensor,
    memory: MemoryBank | None = None,
    *,
    combine: Combine = "difference",
    ids: Sequence[object] | None = None,
    head: str | None = None,
    unknown_ops: str = "refuse",
    check: bool = False,
    **compiling: Any,
) -> SelfSupervisedExplanation:
    """Explain what is particular to images in the eyes of a self-supervised network.

    Of M = φ_τ ∘ φ_F, with the linear head φ_τ: L = φ_F(I), L' the nearest latent vector in the bank, S = L - L',
    v = φ_τ(S) with the head's bias, t = argmax v; and M is explained for class t at image I.

    Args:
        model: the network, images (N, C, H, W) -> logits (N, classes) of its own task, such as rotations or clusters;
            or an explainer of it. It is not touched.
        images: as for an explainer; of the size of those in the bank.
        memory: the latent vectors of other images by this network, `MemoryBank.build`; the image itself is no
            neighbour of its own. Not needed for ``combine="none"``.
        combine: ``"difference"``: S = L - L' (the paper's Δ); ``"sum"``: S = L + L' (Σ); ``"none"``: S = L (w/o).
        ids: of the images, for a bank with ids: entries with the same id are left out, too.
        head: for a model without a bank, path of the linear layer whose input is L; a bank knows its own.
        unknown_ops: see `agf_fx.capture`.
        check: as for `Explainer.explain`.
        compiling: for a model, arguments of `agf_fx.compile`: ``method`` (any; by default ``"agf"``), ``options``,
            ``backend``, ``output``, ...

    Returns:
        Maps, targets, logits, neighbours and their distances.

    Raises:
        InputError: bad images, or of another size or dtype than in the bank, or for which it has no other image.
        NonFiniteInputError: NaN or infinite pixels or latents; ``indices`` says of which images.
        ArchitectureError: the bank is of another network, or of other weights.
        OptionsError: an unknown combination, no bank, or arguments of `agf_fx.compile` for an explainer.
        CaptureError, UnsupportedOpError: the model cannot be captured, or has no linear head.
    """
    require_one_of("combine", combine, COMBINATIONS)
    if memory is None and combine != "none":
        raise OptionsError(f"combine={combine!r} needs the latents of other images: memory=MemoryBank.build(...).")
    if memory is not None and head is not None and head != memory.head:
        raise OptionsError(f"head is {head!r}, and the memory bank holds the input of {memory.head}; leave out head.")
    explainer = _explainer(model, unknown_ops, compiling)
    images = as_batch(images)
    if memory is None:
        encoder = Encoder(explainer.model, head=head, output=explainer.output, unknown_ops=unknown_ops)
    else:
        _check_like(images, memory)
        encoder = memory.encoder(explainer.model, output=explainer.output, unknown_ops=unknown_ops)
    latents = encoder.latents(images)
    if memory is not None:
        memory.check(encoder)
    combined, found = _combined(latents, images, memory, combine, ids)
    v = encoder.logits(combined)
    t = v.argmax(1)
    result = explainer.explain(images, t[:, None], check=check)
    known = {item.name: getattr(result, item.name) for item in fields(result)}
    named = memory is not None and memory.ids is not None and combine != "none"
    return SelfSupervisedExplanation(
        **known,
        combined_logits=v,
        neighbour=found.index,
        neighbour_ids=tuple(memory.ids[place] for place in found.index.tolist()) if named else None,
        distance=found.distance,
        latents=latents,
        combine=combine,
    )


def _explainer(model: nn.Module | Explainer, unknown_ops: str, compiling: dict[str, Any]) -> Explainer:
    if not isinstance(model, Explainer):
        return compile(unwrapped(model), unknown_ops=unknown_ops, **compiling)
    if compiling:
        raise OptionsError(f"{', '.join(compiling)} belong to agf_fx.compile, and an explainer is compiled already.")
    return model


def _check_like(images: Tensor, memory: MemoryBank) -> None:
    if tuple(images.shape[1:]) != memory.image_shape or images.dtype != memory.dtype:
        raise InputError(
            f"images are {tuple(images.shape[1:])} of {images.dtype}, and those of the memory bank "
            f"{memory.image_shape} of {memory.dtype}; prepare them in the same way."
        )


def _combined(
    latents: Tensor, images: Tensor, memory: MemoryBank | None, combine: Combine, ids: Sequence[object] | None
) -> tuple[Tensor, Neighbours]:
    """S, (N, D), and the neighbours that it is made with.

    Raises:
        InputError: the bank has no other image than some of these.
    """
    if memory is None or combine == "none":
        count = len(latents)
        return latents, Neighbours(torch.full((count,), -1), torch.full((count,), torch.nan, dtype=torch.float64))
    found = memory.nearest(latents, images, ids)
    alone = torch.nonzero(found.index < 0).flatten().tolist()
    if alone:
        raise InputError(
            f"the memory bank of {len(memory)} has no other image for images {alone} of the batch; build it of more."
        )
    theirs = memory.latents[found.index].to(latents)
    return (latents - theirs if combine == "difference" else latents + theirs), found
