"""What is read off the gradient at the images: no relevance at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from agf_fx.methods.method import Method, Trace
from agf_fx.methods.registry import Entry, NoOptions, Properties
from agf_fx.methods.streams import gradient_stream
from agf_fx.methods.table import RuleTable, Where, op
from agf_fx.options import require_number
from agf_fx.rules.gradients import deconvolved, guided, smoothed
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value
from agf_fx.rules.site import GRADIENT
from agf_fx.rules.targets import each_target, indicator

aten = torch.ops.aten

_PROPERTIES = Properties(gradients=True, attribution=False, class_specific=True, reaches_input=True)


@formula("∂y_t/∂y", "1 at the target, 0 elsewhere")
def target_indicator(y: Value, target: Value) -> Value:
    """The gradient of the target's logit with respect to all logits, shape (K, N, classes)."""
    return indicator(each_target(y, target), torch.unsqueeze(target, 2))


@formula("map", "Σ_c x ⊙ ∂y_t/∂x")
def input_times_gradient(trace: Trace) -> Value:
    """Images times gradient, summed over channels: (K, N, *spatial)."""
    return trace.over_channels(trace.images * trace.at_images(GRADIENT))


@formula("map", "Σ_c ∂y_t/∂x")
def input_gradient(trace: Trace) -> Value:
    """The gradient at the images, summed over channels: (K, N, *spatial)."""
    return trace.over_channels(trace.at_images(GRADIENT))


def gradient_times_input(options: NoOptions | None = None) -> Method:
    """Gradient × input (Shrikumar et al. 2016): Σ_c x ⊙ ∂y_t/∂x."""
    return Method(
        name="gradient-x-input",
        streams=(gradient_stream(target_indicator),),
        read_out=input_times_gradient,
        scale="signed, in units of the logit: sums to it for networks without biases",
    )


def gradient(options: NoOptions | None = None) -> Method:
    """The gradient (Simonyan et al. 2014): Σ_c ∂y_t/∂x."""
    return Method(
        name="gradient",
        streams=(gradient_stream(target_indicator),),
        read_out=input_gradient,
        scale="signed, in units of the logit per unit of the images",
    )


def _rectifies(node: fx.Node) -> bool:
    bounded = node.target in (aten.hardtanh.default, aten.clamp.default) and node.args[1] == 0
    return bounded or node.target is aten.relu.default


rectifier = Where(_rectifies, "ReLU or ReLU6")
"""Functions that are 0 from 0 down."""

GUIDED_RELUS = RuleTable.of([(rectifier, guided)])
"""ReLUs let positive gradients alone pass."""


def deconvnet(options: NoOptions | None = None) -> Method:
    """Deconvolution (Zeiler and Fergus 2014): ReLUs let positive gradients pass, open or not."""
    relus = RuleTable.of([(rectifier, deconvolved)])
    return Method(
        name="deconvnet",
        streams=(gradient_stream(target_indicator, relus),),
        read_out=input_gradient,
        scale="signed, and no gradient of anything",
    )


def guided_backprop(options: NoOptions | None = None) -> Method:
    """Guided backpropagation (Springenberg et al. 2015): ReLUs let positive gradients alone pass."""
    return Method(
        name="guided-backprop",
        streams=(gradient_stream(target_indicator, GUIDED_RELUS),),
        read_out=input_gradient,
        scale="signed, and no gradient of anything",
    )


@dataclass(frozen=True)
class BetaSmoothOptions:
    """Options of the gradient with smoothed ReLUs.

    Attributes:
        beta: β > 0 of softplus, whose gradient ReLUs have; the larger, the closer to the gradient itself.

    Raises:
        OptionsError: it is no number above 0.
    """

    beta: float = 10.0

    def __post_init__(self) -> None:
        require_number("beta", self.beta, above=0)


def beta_smooth(options: BetaSmoothOptions) -> Method:
    """The gradient, of which ReLUs let σ(βx) pass in the place of [x > 0] (Dombrowski et al. 2019)."""
    relus = RuleTable.of([(op(aten.relu.default), smoothed(options.beta))])
    return Method(
        name="beta-smooth",
        streams=(gradient_stream(target_indicator, relus),),
        read_out=input_gradient,
        scale="signed, in units of the logit per unit of the images; the forward pass keeps its ReLUs",
    )


ENTRIES = (
    Entry(
        name="gradient-x-input",
        title="gradient × input",
        citation="Shrikumar, Greenside, Shcherbina and Kundaje, 2016",
        properties=_PROPERTIES,
        make=gradient_times_input,
    ),
    Entry(
        name="gradient",
        title="the gradient of the target's logit at the images (vanilla gradient, saliency with its sign)",
        citation="Simonyan, Vedaldi and Zisserman, ICLR workshop 2014",
        properties=_PROPERTIES,
        make=gradient,
    ),
    Entry(
        name="guided-backprop",
        title="the gradient, of which ReLUs let positive entries alone pass",
        citation="Springenberg, Dosovitskiy, Brox and Riedmiller, ICLR workshop 2015",
        properties=_PROPERTIES._replace(class_specific=False),
        make=guided_backprop,
    ),
    Entry(
        name="deconvnet",
        title="deconvolution: the gradient, of which ReLUs let positive entries pass, whether they are open or not",
        citation="Zeiler and Fergus, ECCV 2014",
        properties=_PROPERTIES._replace(class_specific=False),
        make=deconvnet,
    ),
    Entry(
        name="beta-smooth",
        title="the gradient with ReLUs whose derivative is that of softplus; Zennit's BetaSmooth",
        citation="Dombrowski, Alber, Anders, Ackermann, Müller and Kessel, NeurIPS 2019",
        properties=_PROPERTIES,
        make=beta_smooth,
        options=BetaSmoothOptions,
    ),
)
