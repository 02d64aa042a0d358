"""Extract and aggregate: how much each position contributes to the gradient of weights that are shared between them.

Rebuffi, Fong, Ji and Vedaldi (CVPR 2020): a layer that changes nothing is thought of behind a feature map x. With g the
gradient at the map, each position contributes to the gradient of the weights of this layer (phase 1), and the size of
the contribution is the map (phase 2); see `agf_fx.rules.contributions`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from agf_fx.errors import OptionsError
from agf_fx.ir.facts import facts
from agf_fx.ir.feature_maps import FeatureMap, feature_map, last_of_each_size
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.layers import output_of
from agf_fx.ir.types import carried_type
from agf_fx.ir.vocabulary import CONVOLUTIONS, signals
from agf_fx.methods.cam import enlarged, gradient_at, laid_out, placed
from agf_fx.methods.gradient import target_indicator
from agf_fx.methods.method import Method, Trace
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.streams import gradient_stream
from agf_fx.options import is_number, require_flag, require_one_of
from agf_fx.rules.contributions import AGGREGATED, Contribution, Window
from agf_fx.rules.notation import formula, scope
from agf_fx.rules.numerics import Value, divide_or_zero

aten = torch.ops.aten

EXTRACT = ("bias", "scaling", "conv1x1", "conv3x3", "conv3x3-depthwise", "layer")
AGGREGATE = ("sum", "norm", "positive-norm", "max")
COMBINE = ("uniform", "linear", "product")
_NEIGHBOURS = 3  # in each dimension


@dataclass(frozen=True)
class NormGradOptions:
    """Options of NormGrad.

    Attributes:
        layers: paths of the modules at whose outputs gradients are read, such as ``("layer3", "layer4")``; None for
            the last value of each size, of those that everything behind them is computed from.
        combine: how maps of several layers are multiplied: the plain ``"product"``, as in the published code, or a
            geometric mean with ``"uniform"`` weights or weights ``"linear"`` in depth. Roots make much of small values,
            and of their rounding.
        weights: the exponent of each layer in the product, in the place of ``combine``.
        normalise: whether the map of a single layer is moved and scaled to 0..1 in each image; those of several always
            are, before they are multiplied.
        resize: whether the map of a single layer is resized to the images, (bi)linearly; those of several always are.

    Raises:
        OptionsError: a value has no meaning.
    """

    layers: tuple[str, ...] | None = None
    combine: str = "product"
    weights: tuple[float, ...] | None = None
    normalise: bool = True
    resize: bool = True

    def __post_init__(self) -> None:
        layers = (self.layers,) if isinstance(self.layers, str) else self.layers
        if layers is not None:
            if not isinstance(layers, list | tuple) or not layers or not all(isinstance(name, str) for name in layers):
                raise OptionsError(f'layers is {layers!r}; give paths of modules, such as ("layer3", "layer4").')
            object.__setattr__(self, "layers", tuple(layers))
        require_one_of("combine", self.combine, COMBINE)
        if self.weights is not None:
            known = isinstance(self.weights, list | tuple) and all(
                is_number(w) and 0 <= w < math.inf for w in self.weights
            )
            if not known or not any(self.weights):
                raise OptionsError(f"weights is {self.weights!r}; give a number of 0 or more for each layer.")
            if self.layers is None or len(self.weights) != len(self.layers):
                count = "no layers are named" if self.layers is None else f"there are {len(self.layers)} layers"
                raise OptionsError(f"weights has {len(self.weights)} numbers, and {count}; give one for each layer.")
            object.__setattr__(self, "weights", tuple(float(weight) for weight in self.weights))
        for name in ("normalise", "resize"):
            require_flag(name, getattr(self, name))


@dataclass(frozen=True)
class ExtractAggregateOptions(NormGradOptions):
    """Options of extract-and-aggregate.

    Attributes:
        layers: paths of the modules at whose outputs gradients are read; None as for NormGrad, and where ``extract`` is
            ``"layer"`` for the last convolution of each size.
        combine: how maps of several layers are multiplied, as for NormGrad.
        weights: the exponent of each layer in the product, in the place of ``combine``.
        normalise: whether the map of a single layer is moved and scaled to 0..1 in each image.
        resize: whether the map of a single layer is resized to the images.
        extract: the weights whose gradient is looked at: those of a ``"bias"``, a ``"scaling"``, a convolution
            ``"conv1x1"``, ``"conv3x3"`` or ``"conv3x3-depthwise"`` thought of behind the layer, or those of the
            ``"layer"``, a convolution, itself.
        aggregate: what is taken of their entries at a position: ``"sum"``, ``"norm"`` (L2), ``"positive-norm"`` (L2 of
            the positive ones) or ``"max"``.

    Raises:
        OptionsError: a value has no meaning.
    """

    extract: str = "conv1x1"
    aggregate: str = "norm"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("extract", self.extract, EXTRACT)
        require_one_of("aggregate", self.aggregate, AGGREGATE)


def extract_aggregate(options: ExtractAggregateOptions) -> Method:
    """Any phase 1 with any phase 2, at one layer or several."""
    return _method("extract-aggregate", options, options.extract, options.aggregate)


def norm_grad(options: NormGradOptions) -> Method:
    """NormGrad: ‖x_u‖·‖g_u‖, the norm of a 1×1 convolution's gradient at each position."""
    return _method("normgrad", options, "conv1x1", "norm")


def _method(name: str, options: NormGradOptions, extract: str, aggregate: str) -> Method:
    return Method(
        name=name,
        streams=(gradient_stream(target_indicator),),
        read_out=partial(read_out, options=options, extract=extract, aggregate=aggregate),
        needs=(partial(layers_of, options=options, extract=extract),),
        blank="the layer reads or hands on nothing there",
        scale="0 to 1" if options.normalise else "in units of the logit",
    )


def layers_of(canonical: CanonicalGraph, options: NormGradOptions, extract: str) -> list[FeatureMap]:
    """The feature maps at which gradients are read.

    Raises:
        OptionsError: a layer is unknown, no feature map with positions and channels, or no convolution where one is
            needed.
    """
    if options.layers is None:
        return last_of_each_size(canonical, CONVOLUTIONS if extract == "layer" else None)
    found = [feature_map(canonical, output_of(canonical, path)) for path in options.layers]
    for path, layer in zip(options.layers, found, strict=True):
        if extract == "layer" and layer.node.target not in CONVOLUTIONS:
            raise OptionsError(
                f'extract="layer" reads the weights of a convolution, and layer {path!r} of {canonical.name} is none; '
                "name one, or choose another way to extract."
            )
    return found


def contribution(trace: Trace, layer: FeatureMap, extract: str) -> Contribution:
    """Phase 1 at a feature map, channels first."""
    node = layer.node
    gradient = _channels_first(gradient_at(trace, layer), layer, trace.targets)
    shape = (layer.shape[layer.channel - 1], *layer.sizes)
    if extract == "layer":
        source = signals(node)[0]
        _, _, _, stride, padding, dilation, groups = node.args
        sizes = node.args[1].meta["type"].shape[2:]
        zeros = facts(node).kernel_padding or ((0, 0),) * len(sizes)
        kernel = [size - before - after for size, (before, after) in zip(sizes, zeros, strict=True)]
        around = [
            (side - before * step, side - after * step)
            for side, step, (before, after) in zip(padding, dilation, zeros, strict=True)
        ]
        window = Window(kernel, stride, around, dilation)
        read, size = trace.values[source.name], tuple(carried_type(source).shape[1:])
        return Contribution(read, gradient, groups, window, size, shape, trace.targets)
    if extract == "bias":
        return Contribution(None, gradient, 1, None, shape, shape, trace.targets)
    around = None
    if extract.startswith("conv3x3"):
        each = len(shape) - 1
        around = Window([_NEIGHBOURS] * each, [1] * each, [(_NEIGHBOURS // 2, _NEIGHBOURS // 2)] * each, [1] * each)
    groups = shape[0] if extract in ("scaling", "conv3x3-depthwise") else 1
    read = _channels_first(trace.values[node.name], layer)
    return Contribution(read, gradient, groups, around, shape, shape, trace.targets)


def _channels_first(value: Value, layer: FeatureMap, targets: Value | None = None) -> Value:
    """(N, C, *sizes) of a value of the layer; (K, N, C, *sizes) of a message to it."""
    value, before = laid_out(value, layer, targets), 0 if targets is None else 1
    if layer.channel == 1:
        return value
    order = [0, layer.channel, *(dim for dim in range(1, layer.rank) if dim != layer.channel)]
    return aten.permute.default(value, [*range(before), *(before + dim for dim in order)])


def read_out(trace: Trace, options: NormGradOptions, extract: str, aggregate: str) -> Value:
    """The map of a layer, or of several multiplied: (K, N, *spatial)."""
    layers = layers_of(trace.canonical, options, extract)
    found = []
    for layer in layers:
        with scope(layer=layer.node.meta["module"]):
            found.append(AGGREGATED[aggregate](contribution(trace, layer, extract)))
    if len(found) == 1 and options.weights is None:
        (alone,) = found
        larger = enlarged(alone, trace, trace.targets, layers[0]) if options.resize else alone
        larger = normalised(larger, trace) if options.normalise else larger
        return placed(larger, trace, layers[0]) if options.resize else larger
    exponents = (
        options.weights
        or {
            "uniform": [1 / len(found)] * len(found),
            "linear": [2 * rank / (len(found) * (len(found) + 1)) for rank in _depths(trace, layers)],
            "product": [1.0] * len(found),
        }[options.combine]
    )
    larger = (
        placed(normalised(enlarged(each, trace, trace.targets, layer), trace), trace, layer)
        for each, layer in zip(found, layers, strict=True)
    )
    return product(list(larger), exponents)


def _depths(trace: Trace, layers: Sequence[FeatureMap]) -> list[int]:
    """The ranks 1, 2, ... of layers by when they run."""
    calls = {node: place for place, node in enumerate(trace.canonical.calls)}
    places = [calls[layer.node] for layer in layers]
    return [1 + sorted(places).index(place) for place in places]


@formula("map", "Π_l m_l^{w_l}")
def product(maps: Sequence[Value], exponents: Sequence[float]) -> Value:
    """Maps of 0 to 1, each to a power, multiplied."""
    result: Any = 1.0
    for each, exponent in zip(maps, exponents, strict=True):
        if exponent:
            result = (each if exponent == 1 else aten.pow.Tensor_Scalar(each, exponent)) * result
    return result


@formula("m", "(m - min m) / max (m - min m)")
def normalised(maps: Value, trace: Trace) -> Value:
    """Maps (K, N, *spatial) moved and scaled to 0..1, each by itself; 0 where it is constant."""
    dims = list(range(-len(_spatial(trace)), 0))
    moved = maps - torch.amin(maps, dims, True)
    return divide_or_zero(moved, torch.amax(moved, dims, True))


def _spatial(trace: Trace) -> list[int]:
    return [dim for dim in range(1, trace.rank) if dim != trace.channel_dim]


_PROPERTIES = Properties(gradients=True, attribution=False, class_specific=True, reaches_input=False)
_CITATION = "Rebuffi, Fong, Ji and Vedaldi, CVPR 2020"

ENTRIES = (
    Entry(
        name="normgrad",
        title="NormGrad: norm of activations times norm of gradients at inner layers",
        citation=_CITATION,
        properties=_PROPERTIES,
        make=norm_grad,
        options=NormGradOptions,
    ),
    Entry(
        name="extract-aggregate",
        title="extract and aggregate: any gradient of virtual weights at inner layers, summarised at each position",
        citation=_CITATION,
        properties=_PROPERTIES,
        make=extract_aggregate,
        options=ExtractAggregateOptions,
    ),
)
