"""Facts that analyses write on nodes of the canonical graph, and that rules read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch.fx import Node


@dataclass(frozen=True)
class FlattenBoundary:
    """Where a linear layer reads a flattened feature map.

    Attributes:
        shape: the feature map's shape per sample, in the order in which it was flattened.
        channel_dim: which dimension of the batched feature map holds the channels.
    """

    shape: tuple[int, ...]
    channel_dim: int


@dataclass(frozen=True)
class Facts:
    """What the role analyses found out about one node.

    Attributes:
        input_layer: reads the image with no parametrised layer before it.
        head: a last parametrised layer on the way to the logits.
        tail: lies behind the heads; only the gradient passes.
        residual_merge: name of the fan-out node whose branches meet in this sum.
        flat: a convolution whose relevance is C alone.
        flatten_boundary: the feature map that this linear layer reads flattened.
    """

    input_layer: bool = False
    head: bool = False
    tail: bool = False
    residual_merge: str | None = None
    flat: bool = False
    flatten_boundary: FlattenBoundary | None = None

    def __str__(self) -> str:
        set_facts = [f.name.replace("_", " ") for f in fields(self) if getattr(self, f.name)]
        return ", ".join(set_facts)


def facts(node: Node) -> Facts:
    """The facts known about ``node``."""
    return node.meta.get("facts", Facts())


def mark(node: Node, **changes: object) -> None:
    """Add facts to ``node``."""
    node.meta["facts"] = replace(facts(node), **changes)
