"""What relevance, or the gradient, looks like at every layer: one walk, rule by rule, over one image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from agf_fx.emit import Streams, interpret
from agf_fx.errors import OptionsError
from agf_fx.imaging.pixels import display_pixels
from agf_fx.inspect.conservation import ConservationReport, summed
from agf_fx.ir.channels import channel_dim
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import depends_on_images
from agf_fx.methods.method import Method
from agf_fx.rules.site import GRADIENT, RELEVANCE


@dataclass(frozen=True)
class LayerMaps:
    """An image and a target, looked at in every layer.

    Attributes:
        target: the class that is explained.
        logit: its value; the mean over positions, where there are several.
        quantity: of the maps, "relevance" or "gradient"; "map" where there is none at any layer.
        maps: call of the model -> its output's relevance summed over channels, (H, W); of signals and of tokens
            (1, L). Calls whose output has no positions, or is counted together with other images, have none.
        image: the method's own map, (H, W) or another form.
        totals: call of the model -> the sum of the relevance of its output.
        conservation: what calls receive and hand on; None for gradients.
        why_none: why layers have no maps, in words; "" where they have.
    """

    target: int
    logit: float
    quantity: str
    maps: Mapping[str, np.ndarray]
    image: np.ndarray
    totals: Mapping[str, float]
    conservation: ConservationReport | None
    why_none: str = ""


def why_not_at_layers(method: Method) -> str:
    """Why a method has no one map at a layer, in words; "" for one that has."""
    if method.step is not None:
        return f"{method.name} moves the weights before it looks, so that layers have other weights for every map"
    if method.search is not None:
        return f"{method.name} searches for its map step by step, and looks at another image in each"
    if method.points is not None:
        return f"{method.name} looks at many images, in the place of this one, and its map is made of all of them"
    if not method.streams:
        return f"{method.name} hands nothing back from layer to layer"
    return ""


def map_alone(method: Method, maps: Tensor, target: Tensor, logits: Tensor) -> LayerMaps:
    """The method's own map of one image for one target, and nothing at layers.

    Args:
        method: one of which `why_not_at_layers` says something.
        maps: (1, 1, ...).
        target: (1, 1) int64.
        logits: (1, classes, *positions).
    """
    chosen = int(target[0, 0])
    return LayerMaps(
        target=chosen,
        logit=float(_scores(logits[0])[chosen]),
        quantity="map",
        maps={},
        image=maps[0, 0].double().cpu().numpy(),
        totals={},
        conservation=None,
        why_none=why_not_at_layers(method),
    )


def layer_maps(
    canonical: CanonicalGraph, method: Method, image: Tensor, target: Tensor, inputs: Mapping[str, Tensor]
) -> LayerMaps:
    """Explain one image for one target, and keep what there is at every call.

    Args:
        canonical: an analysed canonical graph.
        method: the method, of which `why_not_at_layers` says nothing.
        image: (1, C, ...).
        target: (1, 1) int64; a class, or -r for the class of rank r.
        inputs: placeholder name -> weight or constant.

    Raises:
        OptionsError: the method has no one map at a layer.
    """
    if why_not_at_layers(method):
        raise OptionsError(f"{why_not_at_layers(method)}: there is no one map at a layer.")
    with torch.no_grad():
        streams = interpret(canonical, method, image, target, inputs)
    quantity = RELEVANCE if RELEVANCE in streams.messages else GRADIENT
    messages = streams.messages.get(quantity, {})
    found = {node.name: messages[node.name] for node in _values(canonical) if node.name in messages}
    chosen, scores = int(target[0, 0]), _scores(streams.logits[0])
    chosen = chosen if chosen >= 0 else int(scores.argsort(descending=True, stable=True)[-chosen - 1])
    return LayerMaps(
        target=chosen,
        logit=float(scores[chosen]),
        quantity=quantity,
        maps=_maps(canonical, method.channels_of(canonical), found),
        image=streams.maps[0, 0].double().cpu().numpy(),
        totals={name: float(value.sum()) for name, value in found.items()},
        conservation=_conserved(canonical, streams, target, image) if quantity == RELEVANCE else None,
    )


def _scores(logits: Tensor) -> Tensor:
    """The logits of one image, (classes,); the mean over positions, where there are several."""
    return logits.flatten(1).mean(1) if logits.dim() > 1 else logits


def _values(canonical: CanonicalGraph) -> list[fx.Node]:
    return [canonical.images, *(node for node in canonical.calls if depends_on_images(node))]


def _maps(canonical: CanonicalGraph, images: int | None, found: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """What messages (1, 1, ...) at values look like; without those that have no positions."""
    maps = {}
    for node in _values(canonical):
        spatial = over_channels(node, found[node.name], images) if node.name in found else None
        if spatial is not None and bool(spatial.isfinite().all()):
            maps[node.name] = np.atleast_2d(spatial[0].cpu().numpy())
    return maps


def over_channels(node: fx.Node, message: Tensor, images: int | None) -> Tensor | None:
    """A message (K, 1, ...) at a value, summed over its channels: float64 (K, H, W) or (K, L).

    None where the value has no positions, or is counted together with other images.

    Args:
        node: the value.
        message: relevance or gradient of it.
        images: the dimension of the images that holds channels; None where they have none.
    """
    kind = node.meta["type"]
    if isinstance(kind, tuple) or not kind.batched or message.shape[1] != 1:
        return None
    channels = channel_dim(node, images)
    if channels is None and node.op == "placeholder":
        spatial = message[:, 0].double()
    elif channels is None or not 1 <= channels < kind.rank:
        return None
    else:
        spatial = message[:, 0].double().sum(channels)
    return spatial if spatial.dim() in (2, 3) and spatial[0].numel() > 1 else None


def folded(tokens: np.ndarray) -> np.ndarray | None:
    """Relevance (1, L) of the tokens of an image as the square that they cover; None where they cover none.

    Where one token is too many, it is the first, which stands for the class and for no place.
    """
    count = tokens.shape[1]
    for extra in (0, 1):
        side = math.isqrt(count - extra)
        if side > 1 and side * side == count - extra:
            return tokens[0, extra:].reshape(side, side)
    return None


def displayed(image: Tensor, pixels: Any = None) -> np.ndarray | None:
    """Pixels (H, W, 3) uint8 to show for an image (1, C, H, W); None for one that has no colours, without pixels."""
    if pixels is None and (image.dim() != 4 or image.shape[1] not in (1, 3)):
        return None
    return display_pixels(image, None if pixels is None else [pixels])[0]


def _conserved(canonical: CanonicalGraph, streams: Streams, target: Tensor, image: Tensor) -> ConservationReport:
    return summed(canonical, streams, target, image.dtype)
