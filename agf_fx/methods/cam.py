"""Class activation maps: feature maps of an inner layer, weighted by the gradient there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import fx

from agf_fx.errors import OptionsError
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.layers import channels_of, feature_map, last_with_positions, output_of
from agf_fx.ir.types import carried_type
from agf_fx.methods.gradient import GUIDED_RELUS, target_indicator
from agf_fx.methods.method import Method, Trace
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.streams import gradient_stream
from agf_fx.options import require_flag
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value, divide_or_zero, merge_targets, nonzero, split_targets
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
            require_flag(name, getattr(self, name))


@dataclass(frozen=True)
class LinearApproximationOptions(GradCAMOptions):
    """Options of the linear approximation.

    Attributes:
        layer: path of the module whose output is read; None as for Grad-CAM.
        relu: whether only positive values are kept.
        normalise: whether each map is divided by its largest value (0 where that is 0).
        resize: whether maps are resized to the images, bilinearly; else they have the size of the layer.

    Raises:
        OptionsError: a value has no meaning.
    """

    relu: bool = False
    normalise: bool = False


@dataclass(frozen=True)
class GuidedGradCAMOptions:
    """Options of guided Grad-CAM.

    Attributes:
        layer: path of the module whose output Grad-CAM weights; None as there.

    Raises:
        OptionsError: it is no path.
    """

    layer: str | None = None

    def __post_init__(self) -> None:
        GradCAMOptions(self.layer)


def _method(name: str, weigh: Callable[[Reading], Value]) -> Callable[[GradCAMOptions], Method]:
    return partial(_of_layer, name, weigh)


def _of_layer(name: str, weigh: Callable[[Reading], Value], options: GradCAMOptions) -> Method:
    """A method that is read off one layer."""
    return Method(
        name=name,
        streams=(gradient_stream(target_indicator),),
        read_out=partial(weighted_activation, options=options, weigh=weigh),
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
    return feature_map(canonical, node)


class Reading(NamedTuple):
    """What a read-out of a layer needs.

    Attributes:
        value: (N, ...) of the layer.
        gradient: (K, N, ...) there.
        channel: the dimension of channels, from the end.
        spatial: the dimensions of positions, from the end.
    """

    value: Value
    gradient: Value
    channel: int
    spatial: list[int]


def read(trace: Trace, options: GradCAMOptions) -> Reading:
    """Value and gradient of the chosen layer."""
    node = layer_of(trace.canonical, options)
    rank, channel = carried_type(node).rank, channels_of(node)
    spatial = [dim - rank for dim in range(1, rank) if dim != channel]
    return Reading(trace.values[node.name], trace.messages[GRADIENT][node.name], channel - rank, spatial)


@formula("map", "Σ_c a_c ⊙ mean ∂y_t/∂a_c")
def by_mean_gradient(layer: Reading) -> Value:
    """Grad-CAM: channels weighted by the mean of their gradient."""
    return torch.sum(layer.value * torch.mean(layer.gradient, layer.spatial, True), [layer.channel])


@formula("map", "Σ_c a_c ⊙ ∂y_t/∂a_c")
def by_gradient(layer: Reading) -> Value:
    """HiResCAM, and with its sign the linear approximation: every entry by its own gradient."""
    return torch.sum(layer.value * layer.gradient, [layer.channel])


@formula("map", "Σ_c a_c ⊙ max(∂y_t/∂a_c, 0)")
def by_positive_gradient(layer: Reading) -> Value:
    """LayerCAM: every entry by the positive part of its gradient."""
    return torch.sum(layer.value * torch.clamp_min(layer.gradient, 0), [layer.channel])


@formula("map", "Σ_c a_c Σ_p α_cp max(g_cp, 0), α = g² / (2g² + g³ Σ_p a_cp + ε)")
def by_higher_derivatives(layer: Reading) -> Value:
    """Grad-CAM++ (eq. 19, ε = 1e-6): channels weighted by gradients, each by the share α that powers of it give."""
    g = layer.gradient
    square, total = g * g, torch.sum(layer.value, layer.spatial, True)
    alpha = nonzero(g) * (square / (square * 2.0 + square * g * total + 1e-6))
    weights = torch.sum(torch.clamp_min(g, 0) * alpha, layer.spatial, True)
    return torch.sum(layer.value * weights, [layer.channel])


def weighted_activation(trace: Trace, options: GradCAMOptions, weigh: Callable[[Reading], Value]) -> Value:
    """The map of a layer, as ``weigh`` makes it and the options finish it: (K, N, *spatial)."""
    layer = read(trace, options)
    found = weigh(layer)
    found = torch.clamp_min(found, 0) if options.relu else found
    if options.normalise:
        dims = [-1 - index for index in range(len(layer.spatial))]
        found = divide_or_zero(found, torch.amax(found, dims, True))
    return resized(found, trace, trace.targets) if options.resize else found


def resized(maps: Value, trace: Trace, targets: Value) -> Value:
    """Maps (K, N, *small) at the size of the images, by (bi)linear interpolation: (K, N, *spatial)."""
    sizes = [size for dim, size in enumerate(trace.canonical.image_type.shape) if dim not in (0, trace.channel_dim)]
    rows = torch.unsqueeze(merge_targets(maps), 1)
    scales = [None] * len(sizes)
    larger = aten.select.int(_RESIZED[len(sizes)](rows, sizes, False, *scales), 1, 0)
    return split_targets(larger, targets, sizes)


def guided_grad_cam(options: GuidedGradCAMOptions) -> Method:
    """Guided Grad-CAM (Selvaraju et al. 2017): guided backpropagation times Grad-CAM."""
    cam = GradCAMOptions(options.layer, normalise=False)
    guided = replace(gradient_stream(target_indicator, GUIDED_RELUS), name=GUIDED)
    return Method(
        name="guided-gradcam",
        streams=(gradient_stream(target_indicator), guided),
        read_out=partial(guided_map, options=cam),
        needs=(partial(layer_of, options=cam),),
        blank="no feature map of the layer speaks for the class",
        scale="signed, and no gradient of anything",
    )


GUIDED = "guided"
"""The stream of guided backpropagation beside the gradient."""


def guided_map(trace: Trace, options: GradCAMOptions) -> Value:
    """Σ_c of guided backpropagation times the map of the layer: (K, N, *spatial)."""
    cam = weighted_activation(trace, options, by_mean_gradient)
    return trace.over_channels(trace.at_images(GUIDED)) * cam


_PROPERTIES = Properties(gradients=True, attribution=False, class_specific=True, reaches_input=False)


def _entry(name: str, title: str, citation: str, weigh: Callable[[Reading], Value], options: type) -> Entry:
    return Entry(name, title, citation, _PROPERTIES, _method(name, weigh), options)


ENTRIES = (
    _entry(
        "gradcam",
        "Grad-CAM: feature maps of a layer, weighted by their mean gradients",
        "Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, ICCV 2017",
        by_mean_gradient,
        GradCAMOptions,
    ),
    _entry(
        "gradcam++",
        "Grad-CAM++: feature maps of a layer, weighted by what powers of their gradients say",
        "Chattopadhay, Sarkar, Howlader and Balasubramanian, WACV 2018",
        by_higher_derivatives,
        GradCAMOptions,
    ),
    _entry(
        "hirescam",
        "HiResCAM: feature maps of a layer times their gradients",
        "Draelos and Carin, 2020",
        by_gradient,
        GradCAMOptions,
    ),
    _entry(
        "layercam",
        "LayerCAM: feature maps of a layer times the positive part of their gradients",
        "Jiang, Zhang, Hou, Cheng and Wei, IEEE TIP 2021",
        by_positive_gradient,
        GradCAMOptions,
    ),
    _entry(
        "linear-approx",
        "linear approximation: feature maps of a layer times their gradients, signed",
        "Kindermans, Schütt, Müller and Dähne, 2016, as Rebuffi et al., CVPR 2020, compare with",
        by_gradient,
        LinearApproximationOptions,
    ),
    Entry(
        name="guided-gradcam",
        title="guided Grad-CAM: guided backpropagation times Grad-CAM",
        citation="Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, ICCV 2017",
        properties=_PROPERTIES._replace(reaches_input=True),
        make=guided_grad_cam,
        options=GuidedGradCAMOptions,
    ),
)
