"""The dimension of the images that holds channels, over which a heat map sums."""

from __future__ import annotations

from torch import fx

from agf_fx.ir.axes import Dimension, axes
from agf_fx.ir.facts import UNCLEAR, mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, depends_on_images, is_parametrised, signals

_FEW = 4  # channels of a picture: grey, grey and alpha, RGB, RGBA


def mark_image_channels(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark ``channel_dim`` on the images: the dimension that first layers sum over, and read at no positions.

    It is told by where the images' dimensions went when first layers read them: those of positions, or counted with
    the batch as views are, hold no channels. None does where every dimension holds positions, as where a grey image
    (N, H, W) gets its channel in the forward pass. Perceptrons read whole images; then a dimension of a picture is
    taken that has at most 4 entries, and images of up to two dimensions have no channels. Where several dimensions
    could hold the channels, `UNCLEAR` is marked, and the user is asked; so it is where an operation may have moved
    everything anywhere, and not one dimension is a picture's.
    """
    shape = canonical.image_type.shape
    certain, possible = _positions(canonical)
    candidates = [dim for dim in range(1, len(shape)) if dim not in certain]
    candidates = [dim for dim in candidates if dim not in possible] or candidates
    if not possible and len(shape) < 4:
        candidates = []
    for likely in (lambda size: size > 1, lambda size: size <= _FEW):
        if len(candidates) > 1:
            candidates = [dim for dim in candidates if likely(shape[dim])] or candidates
    found = candidates[0] if candidates else None
    mark(canonical.images, channel_dim=UNCLEAR if len(candidates) > 1 else found)
    return canonical


def _positions(canonical: CanonicalGraph) -> tuple[set[int | str], set[int | str]]:
    """The images' dimensions that any first layer reads as positions, or as further samples; not the batch itself.

    And those that it may read so, as they are all in one.
    """
    known = axes(canonical)
    certain: set[int | str] = set()
    possible: set[int | str] = set()
    for layer in _first_layers(canonical):
        read: tuple[Dimension, ...] = known[layer.args[0]]
        convolves = layer.target in CONVOLUTIONS or layer.target in TRANSPOSED_CONVOLUTIONS
        features = 1 if convolves else len(read) - 1
        positions = [axis for dim, dimension in enumerate(read) if dim != features for axis in dimension]
        certain |= {source for axis in positions if len(axis.sources - {0}) == 1 for source in axis.sources}
        possible |= {source for axis in positions for source in axis.sources}
    return certain - {0}, possible - {0}


def _first_layers(canonical: CanonicalGraph) -> list[fx.Node]:
    """The parametrised layers with no other one between them and the images."""
    behind: set[fx.Node] = set()
    found: list[fx.Node] = []
    for node in filter(depends_on_images, canonical.calls):
        later = any(signal in behind for signal in signals(node))
        if is_parametrised(node) and not later:
            found.append(node)
        if is_parametrised(node) or later:
            behind.add(node)
    return found
