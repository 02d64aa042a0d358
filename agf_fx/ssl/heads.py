"""Where a network is cut in two: features, whose output is the latent vector, and the linear head behind them."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

import torch
from torch import fx

from agf_fx.errors import CaptureError, OptionsError
from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import CONVOLUTIONS, Family, depends_on_images, family_of, is_parametrised
from agf_fx.passes.heads import check_heads
from agf_fx.ssl.cutting import Bypassed, Part, cut

aten = torch.ops.aten

_NAME_IT = "name the linear layer whose input is the latent vector: head='path.of.the.layer'"
_MOVES = (aten.reshape.default, aten.permute.default)


@dataclass(frozen=True)
class Split:
    """A network M = φ_τ ∘ φ_F, cut at the input of its head.

    Attributes:
        name: of the head's module, or of its node where no module calls it.
        size: D, the length of a latent vector.
        features: φ_F, images -> the head's input (N, ...).
        position_dims: dimensions of that input over which it is averaged, to (N, D).
        head: φ_τ, latents (N, D) -> logits (N, classes): the head with its bias, and what lies behind it.
    """

    name: str
    size: int
    features: Part
    position_dims: tuple[int, ...]
    head: Part


def split(canonical: CanonicalGraph, name: str | None = None) -> Split:
    """Cut a network at the input of its head.

    The head is the one last layer: linear, or a convolution with a kernel of size 1. Dropout is no step in front of it,
    a final (log-)softmax none behind. Where it works at several positions whose outputs are averaged, as a 1x1
    convolution in front of a global average pool does, the latent vector is the mean over positions: averaging and
    a linear layer commute.

    Args:
        canonical: an analysed graph.
        name: path of the head's module, where the last layer is not meant; all behind it belongs to φ_τ.

    Raises:
        CaptureError: there is no such layer, or several, or what it works on are no vectors.
        OptionsError: no layer, or no linear layer, has this name, or it is called several times.
    """
    if canonical.positions:
        raise CaptureError(
            f"{canonical.name} has logits at {math.prod(canonical.positions)} positions and no latent vector of the "
            "whole image; explain a part of it that classifies images."
        )
    layer = _named(canonical, name) if name is not None else _last(canonical)
    where = layer.meta["module"] or layer.name
    if not _is_linear(layer):
        raise CaptureError(
            f"the last layer of {canonical.name}, {where}, is no linear layer nor a convolution with a kernel of size "
            f"1, so its input is no latent vector; {_NAME_IT}."
        )
    latent, channels = layer.args[0], _channel_dim(layer)
    kind = latent.meta["type"]
    if not kind.batched:
        raise CaptureError(
            f"the input of {where} in {canonical.name} is {kind}, whose first dimension is not the images'; {_NAME_IT}."
        )
    size = kind.shape[channels]
    positions = tuple(dim for dim in range(1, kind.rank) if dim != channels)
    single = math.prod(kind.shape[dim] for dim in positions) == 1
    end = canonical.logits if single else _averaged(canonical, layer, where)
    inner = kind.shape[1:] if single else tuple(size if dim == channels else 1 for dim in range(1, kind.rank))
    try:
        features, head = cut(canonical, canonical.images, latent), cut(canonical, latent, end, inner)
    except Bypassed as error:
        raise CaptureError(
            f"the logits of {canonical.name} depend on the images beside {where}, too, so they are no function of its "
            f"input alone; {_NAME_IT}, behind which there is nothing else."
        ) from error
    return Split(where, size, features, () if single else positions, head)


def _last(canonical: CanonicalGraph) -> fx.Node:
    heads = [node for node in canonical.calls if facts(node).head]
    if len(heads) == 1:
        return heads[0]
    check_heads(canonical)  # says why there is none
    found = ", ".join(node.meta["module"] or node.name for node in heads[:5])
    raise CaptureError(
        f"{canonical.name} has {len(heads)} last layers ({found}), and so no one head with a latent vector; explain a "
        "part of the model with one head, or choose its logits with output=."
    )


def _named(canonical: CanonicalGraph, name: str) -> fx.Node:
    layers = [node for node in canonical.calls if is_parametrised(node)]
    found = [node for node in layers if node.meta["module"] == name]
    if len(found) == 1 and _is_linear(found[0]):
        return found[0]
    if found:
        why = f"is called {len(found)} times" if len(found) > 1 else "is no linear layer nor a 1x1 convolution"
        raise OptionsError(f"head={name!r} of {canonical.name} {why}; {_NAME_IT}.")
    known = list(dict.fromkeys(node.meta["module"] for node in layers if _is_linear(node) and node.meta["module"]))
    close = difflib.get_close_matches(name, known, 3, 0.4) or known[-3:]
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "it has none with a name."
    raise OptionsError(f"{canonical.name} has no linear layer {name!r}; {hint}")


def _is_linear(layer: fx.Node) -> bool:
    """Whether a layer is y = Wx + b of the channels, with weights that do not depend on the images."""
    if depends_on_images(layer.args[1]):
        return False
    if layer.target is aten.linear.default:
        return True
    return layer.target in CONVOLUTIONS and set(layer.args[1].meta["type"].shape[2:]) == {1}


def _channel_dim(layer: fx.Node) -> int:
    return layer.args[0].meta["type"].rank - 1 if layer.target is aten.linear.default else 1


def _averaged(canonical: CanonicalGraph, layer: fx.Node, where: str) -> fx.Node:
    """The logits, where nothing but a mean over all positions lies between them and a layer.

    Raises:
        CaptureError: something else does.
    """
    node, refused = layer, _moves_patches(layer)
    while node is not canonical.logits and not refused:
        node, *others = (user for user in node.users if user.op == "call_function")
        refused = bool(others) or not (node.target in _MOVES or _averages(node))
    if refused:
        raise CaptureError(
            f"{where}, the head of {canonical.name}, works at several positions, and what lies behind it is no mean "
            f"over all of them (%{node.name}), so its input is no latent vector of the image; {_NAME_IT}."
        )
    return node


def _moves_patches(layer: fx.Node) -> bool:
    """Whether a convolution skips or adds positions."""
    return layer.target in CONVOLUTIONS and (set(layer.args[3]) != {1} or set(layer.args[4]) != {0})


def _averages(node: fx.Node) -> bool:
    sizes = node.meta["type"].shape[1:]
    over_all = math.prod(sizes) == max(sizes, default=1)
    return family_of(node) is Family.AVERAGE and node.target is not aten.sum.dim_IntList and over_all
