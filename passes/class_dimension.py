"""Whether the second dimension of the logits holds classes."""

from __future__ import annotations

from agf_fx.errors import CaptureError
from agf_fx.ir.axes import WEIGHTS, axes, sources
from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph

_PICTURE = 4  # rank of (N, classes, H, W)


def check_class_dimension(canonical: CanonicalGraph) -> CanonicalGraph:
    """Refuse models whose logits (N, dimension, ...) do not have their classes in dimension 1.

    Classes are the features of the heads. Where they went to another dimension, or were a single one that is gone, as
    in masks (N, H, W), dimension 1 holds rows, time steps or regions, and a map for "class 13" would be one for row 13.
    Of what cannot be followed, dimension 1 is taken at its word, and so it is of the features of one layer dealt out to
    pictures (N, classes, H, W).

    Raises:
        CaptureError: which dimension holds what, and that ``output`` can say where the classes are.
    """
    heads = {node.name for node in canonical.calls if facts(node).head}
    dimensions = axes(canonical)[canonical.logits]
    shape = canonical.logits.meta["type"]
    second, *others = [sources(dimension) for dimension in dimensions[1:]]
    elsewhere = [dim for dim, found in enumerate(others, start=2) if found & heads]
    if second & heads:
        if elsewhere and len(dimensions) < _PICTURE:
            raise CaptureError(
                f"the features of the last layer of {canonical.name} are in dimensions 1 and "
                f"{', '.join(map(str, elsewhere))} of its output {shape}, so which of them are classes cannot be told. "
                "Say it: output=lambda y: y.flatten(1) takes all of them for classes, output=lambda y: y[:, 0] those "
                "of one task."
            )
        return canonical
    if elsewhere:
        dim = elsewhere[0]
        raise CaptureError(
            f"the output {shape} of {canonical.name} has its classes in dimension {dim} and not in dimension 1: "
            f"output=lambda y: y.movedim({dim}, 1), or output=lambda y: y.mean(1) for one score a class."
        )
    by_channel = not heads and second == {1}  # a network without layers: its classes are channels of the images
    if second and all(isinstance(source, int) for source in second) and not by_channel:
        raise CaptureError(
            f"dimension 1 of the output {shape} of {canonical.name} comes from positions in the images, not from the "
            "features of a layer, so it holds no classes. Give the one score there is as two classes: "
            "output=lambda y: torch.stack([-y, y], 1)."
        )
    return canonical


def check_class_layer(canonical: CanonicalGraph) -> CanonicalGraph:
    """Refuse models whose classes are made behind their last layer, for methods whose relevance starts there.

    Raises:
        CaptureError: what to do.
    """
    second = sources(axes(canonical)[canonical.logits][1])
    if second == {WEIGHTS}:
        raise CaptureError(
            f"the classes of {canonical.name} are made by products or distances with weights behind its last layer, so "
            "there is no layer whose features are classes, and no head to start from. Write the head as a linear layer "
            "or a convolution, or explain its features: output=..."
        )
    return canonical
