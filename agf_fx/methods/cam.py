"""Class activation maps: feature maps of an inner layer, weighted by the gradient there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch

from agf_fx.errors import OptionsError
from agf_fx.ir.feature_maps import FeatureMap, feature_map, last_feature_map
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.layers import output_of
from agf_fx.ir.places import image_channel
from agf_fx.methods.gradient import GUIDED_RELUS, target_indicator
from agf_fx.methods.method import Method, Trace
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.streams import gradient_stream
from agf_fx.options import require_flag
from agf_fx.rules.notation import formula, scope
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
        layer: path of the module whose output is weighted, such as ``"layer4"``; None for the last feature map with
            several positions that everything behind it is computed from. Tokens of a vision transformer are one, but
            for those that are no part of the image.
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
class EigenCAMOptions(GradCAMOptions):
    """Options of EigenCAM.

    Attributes:
        layer: path of the module whose output is read; None as for Grad-CAM.
        relu: whether only positive values are kept.
        normalise: whether each map is divided by its largest value (0 where that is 0).
        resize: whether maps are resized to the images, bilinearly; else they have the size of the layer.
        centre: whether each channel's mean is taken off first, as pytorch-grad-cam does; the paper does not.

    Raises:
        OptionsError: a value has no meaning.
    """

    centre: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_flag("centre", self.centre)


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


def layer_of(canonical: CanonicalGraph, options: GradCAMOptions) -> FeatureMap:
    """The feature map whose channels are weighted.

    Raises:
        OptionsError: the layer is unknown, or no feature map with positions and channels.
    """
    if options.layer is None:
        return last_feature_map(canonical)
    return feature_map(canonical, output_of(canonical, options.layer))


def laid_out(value: Value, layer: FeatureMap, targets: Value | None = None) -> Value:
    """A value of the layer, or with ``targets`` a message to it, with a dimension for each of the image's.

    Args:
        value: (N, *shape) or (K, N, *shape); of tokens, (N, T, C) or (T, N, C), those that are no positions are left
            out.
        layer: where it is.
        targets: K, of a message.
    """
    if layer.first is None:
        return value
    tokens = 1 if targets is None else 2
    if layer.batch:
        value = torch.transpose(value, tokens - 1, tokens)
    positions = torch.narrow(value, tokens, layer.first, math.prod(layer.sizes))
    return torch.reshape(positions, [-1, *layer.shape] if targets is None else [targets, -1, *layer.shape])


def gradient_at(trace: Trace, layer: FeatureMap) -> Value:
    """The gradient at a feature map, (K, N, ...).

    Raises:
        OptionsError: none comes to it.
    """
    found = trace.messages[GRADIENT].get(layer.node.name)
    if found is None:
        raise OptionsError(
            f"no gradient comes to layer {layer.node.meta['module']!r} of {trace.canonical.name}: what reads it has "
            "none, as a comparison or detach(); name another layer."
        )
    return found


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


def read(trace: Trace, layer: FeatureMap) -> Reading:
    """Value and gradient of a layer."""
    value = laid_out(trace.values[layer.node.name], layer)
    gradient = laid_out(gradient_at(trace, layer), layer, trace.targets)
    spatial = [dim - layer.rank for dim in range(1, layer.rank) if dim != layer.channel]
    return Reading(value, gradient, layer.channel - layer.rank, spatial)


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


@formula("map", "a_c v_c, (aᵀ a) v = λ v, v · mean a ≥ 0")
def first_component(value: Value, layer: FeatureMap, centre: bool) -> Value:
    """The positions' share in the first principal component of a feature map (N, ...): (N, *sizes).

    The eigenvector of the largest eigenvalue comes of a power of aᵀ a, or of a aᵀ if that is the smaller: 20 squarings
    leave of the others (λ_i/λ_1)^1048576.
    """
    shape, positions = layer.sizes, math.prod(layer.sizes)
    order = [*(dim for dim in range(layer.rank) if dim != layer.channel), layer.channel]
    a = torch.flatten(aten.permute.default(value, order), 1, -2)
    mean = torch.transpose(torch.mean(a, [1], True), 1, 2)
    a = a - torch.transpose(mean, 1, 2) if centre else a
    across = torch.transpose(a, 1, 2)
    few = positions <= layer.shape[layer.channel - 1]
    power = torch.matmul(a, across) if few else torch.matmul(across, a)
    for _ in range(SQUARINGS):
        power = divide_or_zero(power, torch.amax(torch.abs(power), [1, 2], True))
        power = torch.matmul(power, power)
    direction = torch.matmul(power, torch.matmul(a, mean) if few else mean)
    direction = torch.matmul(across, direction) if few else direction
    direction = divide_or_zero(direction, torch.amax(torch.abs(direction), [1], True))
    unit = divide_or_zero(direction, aten.linalg_vector_norm.default(direction, 2, [1], True))
    return torch.reshape(torch.matmul(a, unit), [-1, *shape])


def principal_map(trace: Trace, options: EigenCAMOptions) -> Value:
    """EigenCAM, finished as the options say, the same for every target: (K, N, *spatial)."""
    layer = layer_of(trace.canonical, options)
    with scope(layer=layer.node.meta["module"]):
        found = first_component(laid_out(trace.values[layer.node.name], layer), layer, options.centre)
    return finished(aten.expand.default(found, [trace.targets, -1, *layer.sizes]), trace, options, layer)


def eigen_cam(options: EigenCAMOptions) -> Method:
    """EigenCAM (Muhammad and Yeasin 2020)."""
    return Method(
        name="eigencam",
        streams=(),
        read_out=partial(principal_map, options=options),
        needs=(partial(layer_of, options=options),),
        blank="the feature map is the same everywhere",
        scale="0 to 1" if options.relu and options.normalise else "in units of the feature map",
    )


def weighted_activation(trace: Trace, options: GradCAMOptions, weigh: Callable[[Reading], Value]) -> Value:
    """The map of a layer, as ``weigh`` makes it and the options finish it: (K, N, *spatial)."""
    layer = layer_of(trace.canonical, options)
    with scope(layer=layer.node.meta["module"]):
        found = weigh(read(trace, layer))
    return finished(found, trace, options, layer)


def finished(found: Value, trace: Trace, options: GradCAMOptions, layer: FeatureMap) -> Value:
    """Maps (K, N, *small) of a layer, as the options finish them."""
    found = torch.clamp_min(found, 0) if options.relu else found
    if options.normalise:
        size = found if options.relu else torch.abs(found)  # by a negative maximum, signs would turn
        found = divide_or_zero(found, torch.amax(size, list(range(-len(layer.sizes), 0)), True))
    return resized(found, trace, trace.targets, layer) if options.resize else found


def resized(maps: Value, trace: Trace, targets: Value, layer: FeatureMap) -> Value:
    """Maps (K, N, *small) of a layer at the size of the images, see `enlarged`, with zeros around what it sees."""
    return placed(enlarged(maps, trace, targets, layer), trace, layer)


def enlarged(maps: Value, trace: Trace, targets: Value, layer: FeatureMap) -> Value:
    """Maps (K, N, *small) of a layer at the size of what it sees of the images, by (bi)linear interpolation.

    Raises:
        OptionsError: maps of the images sum over another dimension than that which inner layers have as channels.
    """
    channel = image_channel(trace.canonical)
    if trace.channel_dim != channel:
        raise OptionsError(
            f"channel_dim is {trace.channel_dim}, and the positions of inner layers are all dimensions of the images "
            f"{trace.canonical.image_type} but {channel}; leave channel_dim out, or take a method that reaches them."
        )
    sizes = [part.stop - part.start for part in layer.seen]
    rows = torch.unsqueeze(merge_targets(maps), 1)
    larger = _RESIZED[len(sizes)](rows, sizes, False, *[None] * len(sizes))
    return split_targets(aten.select.int(larger, 1, 0), targets, sizes)


def placed(maps: Value, trace: Trace, layer: FeatureMap) -> Value:
    """Maps of what a layer sees, (K, N, *seen), with zeros around where the model crops: (K, N, *spatial)."""
    sizes = [size for dim, size in enumerate(trace.canonical.image_type.shape) if dim not in (0, trace.channel_dim)]
    around = [(part.start, size - part.stop) for part, size in zip(layer.seen, sizes, strict=True)]
    if not any(map(any, around)):
        return maps
    return aten.constant_pad_nd.default(maps, [width for pair in reversed(around) for width in pair], 0)


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


SQUARINGS = 20
"""Of the matrix whose first eigenvector EigenCAM looks for."""


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
        name="eigencam",
        title="EigenCAM: the first principal component of a layer's feature maps, whatever the class",
        citation="Muhammad and Yeasin, IJCNN 2020",
        properties=Properties(gradients=False, attribution=False, class_specific=False, reaches_input=False),
        make=eigen_cam,
        options=EigenCAMOptions,
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
