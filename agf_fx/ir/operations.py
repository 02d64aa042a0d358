"""The operations that graphs on disk may hold: those that emission and passes produce, and plain ones on constants.

An operation outside of this list is never read from a file, and graphs that hold one are not written.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable
from typing import Any

import torch

from agf_fx.ir.shape_rules import RULES
from agf_fx.ir.vocabulary import BUILT_IN

aten = torch.ops.aten

# What a value that nobody reads any more can be overwritten by: the same operation, in place.
IN_PLACE = {
    aten.abs.default: aten.abs_.default,
    aten.add.Scalar: aten.add_.Scalar,
    aten.add.Tensor: aten.add_.Tensor,
    aten.div.Tensor: aten.div_.Tensor,
    aten.mul.Scalar: aten.mul_.Scalar,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.neg.default: aten.neg_.default,
    aten.relu.default: aten.relu_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.sign.default: aten.sign_.default,
    aten.sub.Tensor: aten.sub_.Tensor,
}

# Backward operations that write where their last argument says, without a check of their own.
BY_INDICES = {
    aten.max_pool2d_with_indices_backward.default,
    aten.max_pool3d_with_indices_backward.default,
    aten.adaptive_max_pool2d_backward.default,
    aten.adaptive_max_pool3d_backward.default,
}
INDEXED_POOLINGS = {
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
}

_FURTHER = {  # that rules, read-outs and passes use, besides the vocabulary and the table of shapes
    *IN_PLACE.values(),
    *BY_INDICES,
    aten._adaptive_avg_pool3d_backward.default,
    aten.avg_pool3d_backward.default,
    aten.contiguous.default,
    aten.div.Scalar,
    aten.elu_backward.default,
    aten.gather.default,
    aten.remainder.Scalar,
    aten.scatter.value,
    aten.sort.stable,
    aten.sub.Scalar,
}
_ON_CONSTANTS = {  # that models compute their weights with
    aten._weight_norm.default,
    aten.dot.default,
    aten.mv.default,
    aten.std_mean.correction,
    aten.std_mean.dim,
    aten.var_mean.correction,
    aten.var_mean.dim,
    aten.vdot.default,
}
_LISTED = frozenset({*BUILT_IN, *RULES, *_FURTHER, *_ON_CONSTANTS})
_UNCHECKED = {aten.as_strided.default, aten.as_strided_scatter.default, aten.empty_strided.default}
_NAME = re.compile(r"[A-Za-z]\w*|_[a-z]\w*", re.ASCII)
_FORBIDDEN_TAGS = {
    torch.Tag.nondeterministic_seeded,
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.inplace_view,
}


@functools.cache
def storable(target: Callable[..., Any]) -> bool:
    """Whether a graph with this operation may lie in a file.

    Besides the listed operations these are pure functions of tensors in PyTorch's core set, or entry by entry: what
    ``unknown_ops="gradient"`` captures is made of them. None of them reads files, draws numbers or writes.
    """
    if target in _LISTED:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten" or target in _UNCHECKED:
        return False
    schema, tags = target._schema, set(target.tags)
    kinds = {str(argument.real_type) for argument in schema.arguments}
    pure = not schema.is_mutable and not tags & _FORBIDDEN_TAGS and kinds & {"Tensor", "List[Tensor]"}
    results = schema.returns and all(str(result.real_type) == "Tensor" for result in schema.returns)
    return bool(pure and results and tags & {torch.Tag.core, torch.Tag.pointwise})


def name_of(target: Callable[..., Any]) -> str | None:
    """The name of a storable operation in files, as in ``conv2d.default``; None for any other."""
    if target is operator.getitem:
        return "getitem"
    return f"{target.overloadpacket.__name__}.{target._overloadname}" if storable(target) else None


@functools.cache
def by_name(name: str) -> Callable[..., Any] | None:
    """The storable operation of a name; None if there is none."""
    if name == "getitem":
        return operator.getitem
    packet, _, overload = name.partition(".")
    if not (_NAME.fullmatch(packet) and _NAME.fullmatch(overload)):
        return None
    target = getattr(getattr(aten, packet, None), overload, None)
    return target if isinstance(target, torch._ops.OpOverload) and storable(target) else None
