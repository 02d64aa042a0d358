"""Facts that analyses write on nodes of the canonical graph, and that rules read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch.fx import Node

from agf_fx.ir.captured import CapturedVjp

UNCLEAR = -1  # in place of a dimension: there are several


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
        nonnegative_input: a layer whose input cannot have an entry below 0.
        head: a last parametrised layer on the way to the logits.
        tail: lies behind the heads; only the gradient passes.
        residual_merge: name of the fan-out node whose branches meet in this sum.
        open_merge: a sum whose size does not bound its relevance: no ReLU closes it, or residual terms reach it.
        in_region: a convolution inside a residual region.
        feeds_merge: a convolution in a residual region whose output reaches the sum through pass-through calls only.
        pointwise: a convolution with a kernel of size 1, which moves nothing in space.
        kernel_padding: of a convolution, how many zeros stand at the start and at the end of its kernel along each
            dimension, in the place of padding that differs between the sides; empty where there are none.
        flatten_boundary: the feature map that this linear layer reads flattened.
        gate: name of the operand that only scales the other: it gets no relevance.
        attention: name of the operand of a matrix product that is a matrix of attention weights.
        captured_vjp: the derivative of an operation that is not in the vocabulary.
        taken_off: of the logits, the activations that the model has behind them, by name.
        depth: from 0 at the first convolution or linear layer to 1 at the last; of other calls, that of the deepest
            layer in front.
        channel_dim: of the images, the dimension that holds channels; None where there is none, or `UNCLEAR`.
    """

    input_layer: bool = False
    nonnegative_input: bool = False
    head: bool = False
    tail: bool = False
    residual_merge: str | None = None
    open_merge: bool = False
    in_region: bool = False
    feeds_merge: bool = False
    pointwise: bool = False
    kernel_padding: tuple[tuple[int, int], ...] = ()
    flatten_boundary: FlattenBoundary | None = None
    gate: str | None = None
    attention: str | None = None
    captured_vjp: CapturedVjp | None = None
    channel_dim: int | None = None
    taken_off: str = ""
    depth: float = 0.0

    def __str__(self) -> str:
        named = [f.name for f in fields(self) if f.name != "depth"]  # every call has one
        set_facts = [name.replace("_", " ") for name in named if getattr(self, name)]
        return ", ".join(set_facts).replace("channel dim", f"channels in dimension {self.channel_dim}")


def facts(node: Node) -> Facts:
    """The facts known about ``node``."""
    return node.meta.get("facts", Facts())


def mark(node: Node, **changes: object) -> None:
    """Add facts to ``node``."""
    node.meta["facts"] = replace(facts(node), **changes)
