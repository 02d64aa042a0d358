"""What an explanation says of layers: which quantities are asked for, and how they are handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from agf_fx.errors import OptionsError
from agf_fx.ir.feature_maps import channels_of
from agf_fx.ir.graph import CanonicalGraph, LayerOutput
from agf_fx.ir.layers import output_of
from agf_fx.methods.method import Method
from agf_fx.options import require_one_of
from agf_fx.rules.site import GRADIENT, RELEVANCE
from agf_fx.runtime.explanation import Explanation, Layer

QUANTITIES = (RELEVANCE, GRADIENT, "value")


def layer_outputs(
    method: Method, layers: Sequence[str] | None, quantities: Sequence[str] | None
) -> tuple[LayerOutput, ...]:
    """What to return of which layer; () if nothing is asked for.

    Raises:
        OptionsError: no such quantity, or not of this method.
    """
    if layers is None:
        if quantities is not None:
            raise OptionsError("quantities say what is wanted of layers; name them: layers=[...].")
        return ()
    layers = layers if isinstance(layers, str) else tuple(layers)
    if isinstance(layers, str) or not all(isinstance(layer, str) for layer in layers):
        raise OptionsError(f'layers is {layers!r}; give a list of module paths, such as ["layer4"].')
    if method.points is not None or method.search is not None:
        raise OptionsError(f"{method.name} looks at many points for each image, and has nothing to say of layers.")
    if method.step is not None and "value" in (quantities or ()):
        raise OptionsError(
            f"{method.name} moves the weights for every target, and a layer has other values for each; ask for its "
            "relevance or gradient, or compile the method inside for its values."
        )
    known = [stream.name for stream in method.streams]
    if quantities is None:
        quantities = (RELEVANCE if RELEVANCE in known else GRADIENT,)
    if isinstance(quantities, str) or not quantities:
        raise OptionsError(f"quantities is {quantities!r}; give a list with some of {', '.join(QUANTITIES)}.")
    for quantity in quantities:
        require_one_of("quantities", quantity, QUANTITIES)
        if quantity != "value" and quantity not in known:
            raise OptionsError(f"{method.name} has no {quantity}; it has {' and '.join((*known, 'value'))}.")
    return tuple(
        LayerOutput(layer, quantity) for layer in dict.fromkeys(layers) for quantity in dict.fromkeys(quantities)
    )


def with_layers(
    result: Explanation, canonical: CanonicalGraph, outputs: Sequence[LayerOutput], values: Sequence[Tensor]
) -> Explanation:
    """``result`` with what the graph said of layers."""
    found: dict[str, dict[str, Tensor]] = {}
    for output, value in zip(outputs, values, strict=True):
        found.setdefault(output.layer, {})[output.quantity] = value
    first = outputs[0].quantity
    quantities = {name: Layer(**of, channel_dim=channels_of(output_of(canonical, name))) for name, of in found.items()}
    return replace(result, layers={name: of[first] for name, of in found.items()}, quantities=quantities)
