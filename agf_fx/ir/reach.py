"""What of a canonical graph is computed from the images, by their values or by their number alone."""

from __future__ import annotations

from typing import Any

from torch import fx

from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import BATCH, TensorType
from agf_fx.ir.vocabulary import SHAPE_ONLY


def calls_on_images(canonical: CanonicalGraph) -> list[fx.Node]:
    """The calls that read the images in any way, in order: what runs anew on other images."""
    reached = {canonical.images}
    for node in canonical.calls:
        if reached.intersection(node.all_input_nodes):
            reached.add(node)
    return [node for node in canonical.calls if node in reached]


def values_of_images(canonical: CanonicalGraph) -> set[fx.Node]:
    """The images, and the calls whose values may differ from image to image, masks and other steps included."""
    reached = {canonical.images}
    for node in canonical.calls:
        if node.target not in SHAPE_ONLY and reached.intersection(node.all_input_nodes):
            reached.add(node)
    return reached


def counts_images_alone(canonical: CanonicalGraph) -> bool:
    """Whether every dimension that depends on the batch has the size N, and none N times something, as windows have."""
    return all(_plain(node.meta["type"]) for node in calls_on_images(canonical))


def _plain(kind: Any) -> bool:
    if isinstance(kind, tuple):
        return all(map(_plain, kind))
    return not isinstance(kind, TensorType) or all(isinstance(size, int) or size == BATCH for size in kind.shape)
