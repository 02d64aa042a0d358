"""FullGrad: what the images and every bias on the way contribute to the logit, in one map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from agf_fx.errors import OptionsError
from agf_fx.ir.feature_maps import FeatureMap
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.places import Places
from agf_fx.ir.types import carried_type
from agf_fx.ir.vocabulary import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, depends_on_images
from agf_fx.methods.cam import resized
from agf_fx.methods.gradient import target_indicator
from agf_fx.methods.method import Method, Trace
from agf_fx.methods.registry import Entry, NoOptions, Properties
from agf_fx.methods.streams import gradient_stream
from agf_fx.passes.norm_canoniser import fold_norms
from agf_fx.rules.notation import formula, scope
from agf_fx.rules.numerics import Value, divide_or_zero
from agf_fx.rules.site import GRADIENT

aten = torch.ops.aten

_OTHERS = 2  # dimensions besides positions: (N, C)
_CONVOLUTIONS = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS)


def full_grad(options: NoOptions | None = None) -> Method:
    """FullGrad (Srinivas and Fleuret 2019): Σ_c ψ(x ⊙ ∂y_t/∂x) + Σ_l Σ_c ψ(b_l ⊙ ∂y_t/∂z_l)."""
    return Method(
        name="fullgrad",
        streams=(gradient_stream(target_indicator),),
        read_out=map_of_contributions,
        needs=(layers_with_maps,),
        canonisers=(fold_norms,),
        scale="0 or more: a sum of tensors that are scaled to 0..1 each",
    )


def map_of_contributions(trace: Trace) -> Value:
    """ψ of the images' contribution and of every convolution's and norm's bias, summed: (K, N, *spatial)."""
    images = trace.images * trace.at_images(GRADIENT)
    total = trace.over_channels(scaled(images, trace.rank))
    layers = layers_with_maps(trace.canonical)
    for node, part in of_biases(trace):
        if node in layers:
            with scope(layer=node.meta["module"]):
                map_of_layer = torch.sum(scaled(part, carried_type(node).rank), [2])
                total = total + resized(map_of_layer, trace, trace.targets, layers[node])
    return total


def layers_with_maps(canonical: CanonicalGraph) -> dict[fx.Node, FeatureMap]:
    """The convolutions and norms with positions whose biases have a map of their own.

    Layers with other dimensions than the images have, such as those on tokens or on pooled features, have none.

    Raises:
        OptionsError: the positions of one do not lie as in the images, so that no map can be made of its bias.
    """
    found, places = {}, Places(canonical)
    for node in canonical.calls:
        kind = carried_type(node)
        if not depends_on_images(node) or not _has_map(node) or kind.rank != len(places.dims) + _OTHERS:
            continue
        if not kind.batched or not places.in_order(node):
            raise OptionsError(
                f"FullGrad adds the map of every layer's bias, and the positions of {kind} at the output of layer "
                f"{node.meta['module']!r} of {canonical.name} do not lie as in the images {canonical.image_type}; take "
                "a method that reaches the images, such as gradient-x-input."
            )
        found[node] = FeatureMap(node, 1, tuple(kind.shape[1:]), seen=places.seen(node))
    return found


def _has_map(node: fx.Node) -> bool:
    """Whether a call has a bias and positions."""
    if node.target in _CONVOLUTIONS:
        return node.args[2] is not None
    return node.target is aten.batch_norm.default


def of_biases(trace: Trace) -> Iterator[tuple[fx.Node, Value]]:
    """Every convolution, linear layer and norm with a bias, and b ⊙ ∂y_t/∂z at its output, (K, N, ...).

    With what the images contribute, Σ x ⊙ ∂y_t/∂x, these sum to the logit of a network whose other functions are ReLUs,
    maxima, averages and sums (Prop. 1).
    """
    for node in trace.canonical.calls:
        gradient = trace.messages[GRADIENT].get(node.name)
        if gradient is None or not depends_on_images(node):
            continue
        with scope(layer=node.meta["module"]):
            part = _of_bias(trace, node, gradient)
        if part is not None:
            yield node, part


def _of_bias(trace: Trace, node: fx.Node, gradient: Value) -> Value | None:
    """b ⊙ ∂y_t/∂z of a layer, (K, N, ...); None where it has no bias."""
    bias = _bias(trace, node)
    if bias is None:
        return None
    channels = -1 if node.target is aten.linear.default else 1 - carried_type(node).rank
    form = [1] * (-channels - 1)
    return gradient * (torch.reshape(bias, [-1, *form]) if form else bias)


@formula("b", "β - mean γ / √(var + eps), or the layer's own")
def _bias(trace: Trace, node: fx.Node) -> Value | None:
    """The bias of a layer, or what a batch norm shifts by; None where there is none."""

    def value(argument: Any) -> Any:
        return trace.values[argument.name] if isinstance(argument, fx.Node) else argument

    if node.target in (*_CONVOLUTIONS, aten.linear.default):
        return value(node.args[2])
    if node.target is aten.batch_norm.default:
        _, gamma, beta, mean, variance, _, _, eps, _ = map(value, node.args)
        shift = -mean * aten.rsqrt.default(variance + eps)
        shift = shift if gamma is None else shift * gamma
        return shift if beta is None else shift + beta
    return None


@formula("ψ", "(|v| - min |v|) / max (|v| - min |v|)")
def scaled(values: Value, rank: int) -> Value:
    """Sizes moved and scaled to 0..1 in each image: (K, N, ...); 0 where they are all the same."""
    dims = list(range(1 - rank, 0))
    sizes = torch.abs(values)
    moved = sizes - torch.amin(sizes, dims, True)
    return divide_or_zero(moved, torch.amax(moved, dims, True))


ENTRIES = (
    Entry(
        name="fullgrad",
        title="FullGrad: contributions of the images and of every bias, in one map",
        citation="Srinivas and Fleuret, NeurIPS 2019",
        properties=Properties(gradients=True, attribution=False, class_specific=True, reaches_input=True),
        make=full_grad,
    ),
)
