"""The closed vocabulary of canonical operations, sorted into families.

A family says what kind of map an operation is; the rule tables give most families one rule. An operation that is
not listed here is refused before anything is emitted.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch.fx import Node

from agf_fx.ir.facts import facts

aten = torch.ops.aten


class Family(StrEnum):
    """What kind of map an operation is."""

    CONVOLUTION = "convolution"  # linear in x, weights shared over positions
    LINEAR = "linear"  # linear in x
    AVERAGE = "average"  # linear in x with fixed weights ≥ 0
    PROPORTIONAL = "proportional"  # positively homogeneous: relevance goes by x ⊙ fᵀ(Φ / f(x))
    SELECTION = "selection"  # proportional, and every output entry is an input entry or 0
    PASS_THROUGH = "pass-through"  # activation, normalisation, scale or shift: relevance unchanged
    DATA_MOVEMENT = "data movement"  # every output entry is one input entry, or a constant
    MERGE = "merge"  # sum or difference of two signals
    PRODUCT = "product"  # bilinear in two signals, or their quotient
    JOINT = "joint"  # any other function of two signals, entry by entry: relevance goes by |x ∂f/∂x|
    SOFT_MAXIMUM = "soft maximum"  # derivatives are weights ≥ 0 with the sum 1: relevance goes by them
    SOFTMAX = "softmax"
    GRADIENT_ONLY = "gradient only"  # no relevance rule: allowed behind the head and on the way to a gate


@dataclass(frozen=True)
class Op:
    """One operation of the vocabulary.

    Attributes:
        family: what kind of map it is.
        operands: positions of the arguments that may carry relevance; an argument may be a list of tensors.
        alone: the family where only the first operand is computed from the images, if that is another one.
    """

    family: Family
    operands: tuple[int, ...] = (0,)
    alone: Family | None = None


def _each(family: Family, *targets: Callable[..., Any], operands: tuple[int, ...] = (0,)) -> dict:
    return dict.fromkeys(targets, Op(family, operands))


CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
TRANSPOSED_CONVOLUTIONS = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)

# What these return depends on the shape, dtype and device of what they read, not on its values.
CREATION = {
    aten.new_empty.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.empty_like.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.fill.Scalar,
    aten.zero.default,
}
SHAPE_ONLY = {aten.sym_size.int, *CREATION}

# Piecewise constant functions of every entry, such as masks: their derivative is 0 wherever there is one.
STEPS = {
    *(aten.eq.Scalar, aten.ne.Scalar, aten.lt.Scalar, aten.le.Scalar, aten.gt.Scalar, aten.ge.Scalar),
    *(aten.eq.Tensor, aten.ne.Tensor, aten.lt.Tensor, aten.le.Tensor, aten.gt.Tensor, aten.ge.Tensor),
    *(aten.sign.default, aten.floor.default, aten.ceil.default, aten.trunc.default, aten.round.default),
    *(aten.round.decimals, aten.signbit.default, aten.heaviside.default, aten.floor_divide.default),
}

# What these return carries no signal: to their readers it is a constant, though it may differ from image to image.
SIGNAL_FREE = SHAPE_ONLY | STEPS

# What these return is their second argument, in the shape of the first.
OVERWRITING = {aten.copy.default, aten.fill.Tensor}

VOCABULARY: dict[Callable[..., Any], Op] = {
    **_each(Family.CONVOLUTION, *CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS),
    aten.linear.default: Op(Family.LINEAR),
    # Selections.
    **_each(
        Family.SELECTION,
        aten.relu.default,
        aten.max_pool2d_with_indices.default,
        aten.max_pool3d_with_indices.default,
        aten.adaptive_max_pool2d.default,
        aten.adaptive_max_pool3d.default,
    ),
    **_each(Family.PROPORTIONAL, aten.amax.default, aten.linalg_vector_norm.default),
    # Averages.
    **_each(
        Family.AVERAGE,
        aten.avg_pool2d.default,
        aten.avg_pool3d.default,
        aten.adaptive_avg_pool2d.default,
        aten.adaptive_avg_pool3d.default,
        aten.mean.dim,
        aten.sum.dim_IntList,
        aten.upsample_linear1d.default,
        aten.upsample_bilinear2d.default,
        aten.upsample_trilinear3d.default,
        aten.col2im.default,
    ),
    # Activations: f applied to every entry.
    **_each(
        Family.PASS_THROUGH,
        aten.gelu.default,
        aten.silu.default,
        aten.mish.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.hardtanh.default,
        aten.leaky_relu.default,
        aten.prelu.default,
        aten.elu.default,
        aten.softplus.default,
        aten.sigmoid.default,
        aten.tanh.default,
        aten.clamp.default,
        aten.abs.default,
        aten.exp.default,
        aten.expm1.default,
        aten.log.default,
        aten.log1p.default,
        aten.sin.default,
        aten.cos.default,
        aten.sqrt.default,
        aten.rsqrt.default,
        aten.reciprocal.default,
        aten.pow.Tensor_Scalar,
        aten.erf.default,
        aten.erfc.default,
        aten.erfinv.default,
        aten.log2.default,
        aten.log10.default,
        aten.logit.default,
        aten.special_entr.default,
        aten.sinc.default,
        aten.tan.default,
        aten.asin.default,
        aten.acos.default,
        aten.atan.default,
        aten.sinh.default,
        aten.cosh.default,
        aten.asinh.default,
        aten.acosh.default,
        aten.atanh.default,
        aten.remainder.Scalar,
        aten.fmod.Scalar,
    ),
    # Normalisations, scales and shifts.
    **_each(
        Family.PASS_THROUGH,
        aten.batch_norm.default,
        aten.layer_norm.default,
        aten.group_norm.default,
        aten.rms_norm.default,
        aten.neg.default,
        operator.getitem,
    ),
    # Data movement.
    **_each(
        Family.DATA_MOVEMENT,
        aten.reshape.default,
        aten.permute.default,
        aten.cat.default,
        aten.expand.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.constant_pad_nd.default,
        aten.index_select.default,
        aten.roll.default,
        aten.masked_fill.Scalar,
        aten.to.dtype,
    ),
    aten.where.self: Op(Family.DATA_MOVEMENT, (1, 2)),
    # Two signals, or one and a constant.
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor), Op(Family.MERGE, (0, 1), alone=Family.PASS_THROUGH)),
    **dict.fromkeys((aten.mul.Tensor, aten.div.Tensor), Op(Family.PRODUCT, (0, 1), alone=Family.PASS_THROUGH)),
    aten.matmul.default: Op(Family.PRODUCT, (0, 1), alone=Family.LINEAR),
    **dict.fromkeys(
        (
            aten.hypot.default,
            aten.atan2.default,
            aten.pow.Tensor_Tensor,
            aten.remainder.Tensor,
            aten.fmod.Tensor,
        ),
        Op(Family.JOINT, (0, 1), alone=Family.PASS_THROUGH),
    ),
    aten.logaddexp.default: Op(Family.SOFT_MAXIMUM, (0, 1), alone=Family.PASS_THROUGH),
    aten.logsumexp.default: Op(Family.SOFT_MAXIMUM),
    aten.softmax.int: Op(Family.SOFTMAX),
    aten.log_softmax.int: Op(Family.GRADIENT_ONLY),
}

BUILT_IN = frozenset(VOCABULARY)  # rules for others can be registered

# Keyword arguments that canonical calls may have; all others are positional.
KEYWORDS: dict[Callable[..., Any], set[str]] = {aten.gelu.default: {"approximate"}}


def op_of(node: Node) -> Op | None:
    """What is known of the operation that ``node`` calls: from the vocabulary, or from its captured derivative."""
    captured = facts(node).captured_vjp
    return Op(Family.PROPORTIONAL, captured.operands) if captured else VOCABULARY.get(node.target)


def operands(node: Node) -> list[Any]:
    """The arguments of ``node`` that may carry relevance, in order: nodes, or the constants in their place."""
    items: list[Any] = []
    for position in op_of(node).operands:
        argument = node.args[position]
        items.extend(argument if isinstance(argument, tuple | list) else (argument,))
    return items


def signals(node: Node) -> list[Node]:
    """The operands of ``node`` that depend on the images; an input used twice appears twice."""
    return [operand for operand in operands(node) if depends_on_images(operand)]


def depends_on_images(value: Any) -> bool:
    """Whether ``value`` is a node computed from the images."""
    return isinstance(value, Node) and value.meta["depends_on_images"]


def family_of(node: Node) -> Family:
    """The family of a call in the canonical graph, given which of its operands are signals."""
    kind = op_of(node)
    if len(kind.operands) > 1 and len(signals(node)) == 1 and kind.alone:
        return kind.alone
    return kind.family


def is_scaled(node: Node) -> bool:
    """Whether a call multiplies a signal by a constant tensor, which may have zeros."""
    return node.target is aten.mul.Tensor and isinstance(node.args[1], Node) and not depends_on_images(node.args[1])


def is_parametrised(node: Node) -> bool:
    """Whether ``node`` is a convolution or a linear layer acting on the images' signal."""
    return (
        depends_on_images(node)
        and node.op == "call_function"
        and family_of(node) in (Family.CONVOLUTION, Family.LINEAR)
    )
