"""DeepLIFT and DeepSHAP: differences from a baseline, handed back so that they sum to the difference of logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import getitem

import torch

from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.reach import values_of_images
from agf_fx.ir.refusal import unsupported
from agf_fx.ir.vocabulary import BUILT_IN, Family, depends_on_images
from agf_fx.methods.baseline import NOT_FINITE, Baseline, checked_baseline, one_baseline
from agf_fx.methods.gradient import target_indicator
from agf_fx.methods.method import Method, Need, Stream, Trace
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.table import RuleTable, Where, family, op
from agf_fx.rules import deeplift as rules
from agf_fx.rules.merging import Merge, total
from agf_fx.rules.notation import formula
from agf_fx.rules.numerics import Value
from agf_fx.rules.site import GRADIENT

aten = torch.ops.aten

smooth = op(
    *(aten.gelu.default, aten.silu.default, aten.mish.default, aten.softplus.default, aten.sigmoid.default),
    *(aten.tanh.default, aten.exp.default, aten.expm1.default, aten.sin.default, aten.cos.default),
    *(aten.erf.default, aten.erfc.default, aten.sinc.default, aten.atan.default, aten.asinh.default),
    *(aten.sinh.default, aten.cosh.default),
)
corner_at_0 = op(
    *(aten.leaky_relu.default, aten.prelu.default, aten.elu.default, aten.log.default, aten.log2.default),
    *(aten.log10.default, aten.rsqrt.default, aten.reciprocal.default, aten.pow.Tensor_Scalar),
    aten.special_entr.default,
)
other_functions = op(
    *(aten.relu.default, aten.abs.default, aten.hardtanh.default, aten.clamp.default, aten.log1p.default),
    *(aten.erfinv.default, aten.logit.default, aten.tan.default),
    *(aten.asin.default, aten.acos.default, aten.acosh.default, aten.atanh.default),
    *(aten.remainder.Scalar, aten.fmod.Scalar),
)
maxima = op(
    *(aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default, aten.amax.default),
    *(aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default),
)
two_values = op(
    *(aten.hypot.default, aten.atan2.default, aten.pow.Tensor_Tensor, aten.remainder.Tensor, aten.fmod.Tensor),
    aten.logaddexp.default,
)
divides_by_a_signal = Where(
    lambda node: node.target is aten.div.Tensor and depends_on_images(node.args[1]), "div by a signal"
)
moves_or_scales = op(
    *(aten.batch_norm.default, aten.neg.default, aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor),
    getitem,
)

MULTIPLIERS = RuleTable.of(
    [
        (smooth, rules.rescale_smooth),
        (corner_at_0, rules.rescale_beside_0),
        (op(aten.hardswish.default, aten.hardsigmoid.default), rules.rescale_beside_3),
        (op(aten.sqrt.default), rules.square_root),
        (other_functions, rules.rescale),
        (maxima, rules.maximum),
        (divides_by_a_signal, rules.quotient),
        (family(Family.PRODUCT), rules.product),
        (two_values, rules.jointly),
        (op(aten.linalg_vector_norm.default), rules.length),
        (op(aten.layer_norm.default), rules.layer_norm),
        (op(aten.group_norm.default), rules.group_norm),
        (op(aten.rms_norm.default), rules.rms_norm),
        (op(aten.softmax.int), rules.softmax),
        (op(aten.log_softmax.int), rules.log_softmax),
        (op(aten.logsumexp.default), rules.log_sum_exp),
        (moves_or_scales, rules.linear),
        (family(Family.CONVOLUTION, Family.LINEAR, Family.AVERAGE, Family.DATA_MOVEMENT), rules.linear),
    ]
)
"""The multiplier of every call; what has none is refused."""


def multipliers_everywhere(method: str) -> Need:
    """A multiplier for every call, and no masks or weights that change from image to image."""

    def check(canonical: CanonicalGraph) -> None:
        varying = values_of_images(canonical)
        for node in canonical.calls:
            if not node.meta["depends_on_images"]:
                continue
            known = node.target in BUILT_IN and not facts(node).captured_vjp
            if not known or MULTIPLIERS.rule_for(node) is None:
                problem = (
                    f"{method} has no multiplier for {node.target}, by which differences from the baseline would be "
                    "handed on. Write it with operations that have one, or choose another method"
                )
                raise unsupported(canonical, node, problem, advice=False)
            steps = [source for source in node.all_input_nodes if source in varying and not depends_on_images(source)]
            if steps:
                problem = (
                    f"{method} compares the images with a baseline, and {node.target} reads %{steps[0].name}, a mask "
                    "or another step that differs between the two and has no multiplier, so that maps would not sum "
                    "to the difference of the logits. Write it as one function, such as relu, or choose another method"
                )
                raise unsupported(canonical, node, problem, advice=False)

    return check


@dataclass(frozen=True)
class DeepLIFTOptions:
    """Options of DeepLIFT.

    Attributes:
        baseline: what the images are compared with, as the model takes them: a value of every entry, or one image,
            (*image) or (1, *image), as a tensor, an array, or a file that ends in .npy, .pt or .safetensors.

    Raises:
        OptionsError: it is none.
    """

    baseline: float | Baseline = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "baseline", checked_baseline(self.baseline))


@dataclass(frozen=True)
class DeepSHAPOptions(DeepLIFTOptions):
    """Options of DeepSHAP.

    Attributes:
        baseline: what the images are compared with, as the model takes them: several images (B, *image) as a tensor,
            an array, or a file that ends in .npy, .pt or .safetensors; or a value of every entry.

    Raises:
        OptionsError: it is none.
    """


@formula("map", "Σ_c m ⊙ (x - x₀)")
def contributions(trace: Trace) -> Value:
    """Multipliers times differences from the baseline, summed over channels: (K, N, *spatial)."""
    return trace.over_channels(trace.at_images(GRADIENT) * (trace.images - trace.baseline))


_MULTIPLIER = Merge(total.function, "sum", "m", "Σ_i m_i")


def deeplift(options: DeepLIFTOptions) -> Method:
    """DeepLIFT with the rescale rule (Shrikumar, Greenside and Kundaje 2017)."""
    baseline = Baseline(options.baseline)
    return replace(_compared("deeplift", baseline), needs=(multipliers_everywhere("deeplift"), one_baseline(baseline)))


def deep_shap(options: DeepSHAPOptions) -> Method:
    """DeepSHAP (Lundberg and Lee 2017): the mean of DeepLIFT over several baselines."""
    scale = "signed, in units of the logit: sums to its mean difference from the baselines'"
    return replace(_compared("deep-shap", Baseline(options.baseline)), scale=scale)


def _compared(name: str, baseline: Baseline) -> Method:
    return Method(
        name=name,
        streams=(Stream(GRADIENT, rules=MULTIPLIERS, seed=target_indicator, merge=_MULTIPLIER),),
        read_out=contributions,
        needs=(multipliers_everywhere(name),),
        scale="signed, in units of the logit: sums to its difference from the baseline's",
        not_finite=NOT_FINITE,
        blank="the images are the baseline, or the logit is the same on both. Choose another baseline",
        baseline=baseline,
        reference=True,
    )


_PROPERTIES = Properties(gradients=True, attribution=False, class_specific=True, reaches_input=True)

ENTRIES = (
    Entry(
        name="deeplift",
        title="DeepLIFT, rescale rule: differences from a baseline, handed back through the network",
        citation="Shrikumar, Greenside and Kundaje, ICML 2017",
        properties=_PROPERTIES,
        make=deeplift,
        options=DeepLIFTOptions,
    ),
    Entry(
        name="deep-shap",
        title="DeepSHAP: the mean of DeepLIFT over several baselines",
        citation="Lundberg and Lee, NeurIPS 2017",
        properties=_PROPERTIES,
        make=deep_shap,
        options=DeepSHAPOptions,
    ),
)
