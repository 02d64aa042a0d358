"""Where the channels of a value are."""

from __future__ import annotations

import math

import torch
from torch import fx

from agf_fx.ir.activations import passes_through
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, Family, depends_on_images, family_of, signals

aten = torch.ops.aten


def channel_dim(value: fx.Node, images: int | None = 1) -> int | None:
    """The dimension of a signal that holds the channels, as far as they can be followed from the layer before it.

    Convolutions give the second dimension, linear layers the last. Returns None where a reshape splits the channels or
    joins them with positions.

    Args:
        value: the signal.
        images: the dimension of the images that holds theirs; None where they have none.
    """
    if value.op != "call_function":
        return images
    if value.target in (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS):
        return 1
    if family_of(value) is Family.LINEAR:
        return value.meta["type"].rank - 1
    sources = [source for source in signals(value) if not isinstance(source.meta["type"], tuple)]
    if not sources:
        return 1
    source = sources[0]
    if value.target is aten.permute.default:
        before = channel_dim(source, images)
        return None if before is None else value.args[1].index(before)
    if value.target is aten.reshape.default:
        return _kept(source, channel_dim(source, images), value)
    same = source.meta["type"].rank == value.meta["type"].rank
    return channel_dim(source, images) if same and _keeps_dims(value) else 1


def _keeps_dims(value: fx.Node) -> bool:
    families = (Family.SELECTION, Family.AVERAGE, Family.MERGE, Family.DATA_MOVEMENT)
    return passes_through(value) or family_of(value) in families


def _kept(source: fx.Node, dim: int | None, value: fx.Node) -> int | None:
    """Where a dimension of ``source`` is after a reshape that leaves it whole."""
    if dim is None:
        return None
    before, after = source.meta["type"].shape, value.meta["type"].shape
    behind = math.prod(before[dim + 1 :])
    for i, size in enumerate(after):
        if size == before[dim] and math.prod(after[i + 1 :]) == behind:
            return i
    return None


def _moves_nothing(value: fx.Node) -> bool:
    """Whether a value is permuted in dimensions of size 1 alone."""
    if value.target is not aten.permute.default:
        return False
    source, order = value.args
    wide = [dim for dim in order if source.meta["type"].shape[dim] != 1]
    return wide == sorted(wide)


def feature_map(vector: fx.Node) -> tuple[fx.Node, int] | None:
    """What a reshape to one vector per image reads, and where its channels are, followed through several reshapes.

    Of the values on the way the last one is taken whose channels are known; without any, the last one, as if its
    channels were second.
    """
    found: list[fx.Node] = []
    value = vector
    while value.op == "call_function" and depends_on_images(value):
        if value.target is aten.reshape.default or _moves_nothing(value):
            value = value.args[0]
            if value.meta["type"].rank > 2 and value.meta["type"].batched:
                found.append(value)
        elif passes_through(value) and not isinstance(signals(value)[0].meta["type"], tuple):
            value = signals(value)[0]
        else:
            break
    known = ((value, dim) for value in found if (dim := channel_dim(value)) not in (None, 0))
    return next(known, (found[0], 1) if found else None)
