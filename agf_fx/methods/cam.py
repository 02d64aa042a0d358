"""Class activation maps: feature maps of an inner layer, weighted by the gradient there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import fx

from agf_fx.errors import OptionsError
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.layers import channels_of, last_with_positions, output_of
from agf_fx.ir.types import carried_type
from agf_fx.methods.gradient import target_indicator
from agf_fx.methods.method import Method, Trace
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.streams import gradient_stream
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value, divide_or_zero, merge_targets, split_targets
from agf_fx.rules.site import GRADIENT

aten = torch.ops.aten

_RESIZED = {
    1: aten.upsample_linear1d.default,
    2: aten.upsample_bilinear2d.default,
    3: aten.upsample_trilinear3d.default,
}


@dataclass(frozen=True)
class GradCAMOptions:
    """Options of Grad-CAM.

    Attributes:
        layer: path of the module whose output is weighted, such as ``"layer4"``; None for the last value with
            several positions that everything behind it is computed from.
        relu: whether only positive values are kept.
        normalise: whether each map is divided by its largest value (0 where that is 0).
        resize: whether maps are resized to the images, bilinearly; else they have the size of the layer.

    Raises:
        OptionsError: a value has no meaning.
    """

    layer: str | None = None
    relu: bool = True
    normalise: bool = True
    resize: bool = True

    def __post_init__(self) -> None:
        if self.layer is not None and not isinstance(self.layer, str):
            raise OptionsError(f'layer is {self.layer!r}; give the path of a module, such as "layer4".')
        for name in ("relu", "normalise", "resize"):
            if not isinstance(getattr(self, name), bool):
                raise OptionsError(f"{name} is {getattr(self, name)!r}; give True or False.")


def grad_cam(options: GradCAMOptions) -> Method:
    """Grad-CAM (Selvaraju et al. 2017)."""
    return Method(
        name="gradcam",
        streams=(gradient_stream(target_indicator),),
        read_out=partial(gradient_weighted_activation, options=options),
        needs=(partial(layer_of, options=options),),
        blank="no feature map of the layer speaks for the class; relu=False shows what speaks against it",
        scale="0 to 1" if options.relu and options.normalise else "in units of the logit",
    )


def layer_of(canonical: CanonicalGraph, options: GradCAMOptions) -> fx.Node:
    """The value whose channels are weighted.

    Raises:
        OptionsError: the layer is unknown, or no feature map with positions and channels.
    """
    node = last_with_positions(canonical) if options.layer is None else output_of(canonical, options.layer)
    kind = carried_type(node)
    if kind.rank != canonical.image_type.rank or not kind.batched or channels_of(node) is None:
        raise OptionsError(
            f"layer {options.layer or node.meta['module']!r} of {canonical.name} puts out {kind}, which is no feature "
            f"map of {canonical.image_type.rank - 2} dimensions; name another layer."
        )
    return node


@formula("map", "ReLU(Σ_c a_c ⊙ mean ∂y_t/∂a_c)")
def gradient_weighted_activation(trace: Trace, options: GradCAMOptions) -> Value:
    """The channels of a layer, each weighted by the mean of its gradient: (K, N, *spatial)."""
    node = layer_of(trace.canonical, options)
    kind, channel = carried_type(node), channels_of(node)
    spatial = [dim - kind.rank for dim in range(1, kind.rank) if dim != channel]
    weights = torch.mean(trace.messages[GRADIENT][node.name], spatial, True)
    found = torch.sum(trace.values[node.name] * weights, [channel - kind.rank])
    found = torch.clamp_min(found, 0) if options.relu else found
    if options.normalise:
        dims = [dim - kind.rank + 1 for dim in range(1, kind.rank - 1)]
        found = divide_or_zero(found, torch.amax(found, dims, True))
    return resized(found, trace, trace.targets) if options.resize else found


def resized(maps: Value, trace: Trace, targets: Value) -> Value:
    """Maps (K, N, *small) at the size of the images, by (bi)linear interpolation: (K, N, *spatial)."""
    sizes = [size for dim, size in enumerate(trace.canonical.image_type.shape) if dim not in (0, trace.channel_dim)]
    rows = torch.unsqueeze(merge_targets(maps), 1)
    scales = [None] * len(sizes)
    larger = aten.select.int(_RESIZED[len(sizes)](rows, sizes, False, *scales), 1, 0)
    return split_targets(larger, targets, sizes)


ENTRIES = (
    Entry(
        name="gradcam",
        title="Grad-CAM: feature maps of a layer, weighted by their mean gradients",
        citation="Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, ICCV 2017",
        properties=Properties(gradients=True, attribution=False, class_specific=True, reaches_input=False),
        make=grad_cam,
        options=GradCAMOptions,
    ),
)
