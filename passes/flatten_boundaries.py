"""Flatten boundaries: linear layers that read a flattened feature map."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.ir.activations import passes_through
from agf_fx.ir.channels import feature_map
from agf_fx.ir.facts import FlattenBoundary, mark
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import Family, depends_on_images, family_of, is_parametrised, signals

aten = torch.ops.aten


def mark_flatten_boundaries(canonical: CanonicalGraph) -> CanonicalGraph:
    """Mark ``flatten_boundary`` on linear layers whose input is a feature map (N, C, ...) reshaped to (N, features).

    Pass-through operations may stand in between, and several reshapes. Permutations are followed, so that the channels
    are found where they went.
    """
    for node in canonical.calls:
        if is_parametrised(node) and family_of(node) is Family.LINEAR:
            reshape = _behind_pass_through(node.args[0])
            if reshape.target is aten.reshape.default and _is_vector(reshape):
                found = feature_map(reshape)
                if found:
                    kind, channels = found[0].meta["type"], found[1]
                    mark(node, flatten_boundary=FlattenBoundary(tuple(kind.sample_shape), channels))
    return canonical


def _is_vector(node: fx.Node) -> bool:
    """Whether the value is one vector per image, (N, features)."""
    return node.meta["type"].rank == 2 and node.meta["type"].batched


def _behind_pass_through(node: fx.Node) -> fx.Node:
    while node.op == "call_function" and depends_on_images(node) and passes_through(node):
        if isinstance(signals(node)[0].meta["type"], tuple):
            return node
        node = signals(node)[0]
    return node
