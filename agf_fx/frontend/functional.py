"""Programs of common operations without in-place calls, which are exchanged one for one.

Tracing such a program again, as PyTorch does to make it functional, takes longer than exporting it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch import fx
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.export import ExportedProgram

aten = torch.ops.aten

_FUNCTIONAL: dict[Callable[..., Any], Callable[..., Any]] = {
    aten.relu_.default: aten.relu.default,
    aten.hardtanh_.default: aten.hardtanh.default,
    aten.relu6_.default: aten.relu6.default,
    aten.hardswish_.default: aten.hardswish.default,
    aten.hardsigmoid_.default: aten.hardsigmoid.default,
    aten.leaky_relu_.default: aten.leaky_relu.default,
    aten.elu_.default: aten.elu.default,
    aten.silu_.default: aten.silu.default,
    aten.mish_.default: aten.mish.default,
    aten.sigmoid_.default: aten.sigmoid.default,
    aten.tanh_.default: aten.tanh.default,
    aten.add_.Tensor: aten.add.Tensor,
    aten.sub_.Tensor: aten.sub.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor,
}
"""What writes to its first argument, and the operation with the same result that does not."""

_FRESH = {
    *(aten.relu6.default, aten.silu.default, aten.mish.default, aten.linear.default, aten.matmul.default),
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv1d.padding, aten.conv2d.padding),
    *(aten.conv3d.padding, aten.batch_norm.default, aten.layer_norm.default, aten.group_norm.default),
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default, aten.avg_pool1d.default),
    *(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default),
    *(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
    *(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec),
    *(aten.upsample_bilinear2d.vec, aten.softmax.int, aten.log_softmax.int, aten.scaled_dot_product_attention.default),
}
"""Operations that PyTorch writes as others, whose result shares no memory with an argument."""

_VIEWS = {
    *(aten.flatten.using_ints, aten.unflatten.int, aten.reshape.default, aten.contiguous.default, aten.chunk.default),
    *(aten.sym_size.int, operator.getitem, operator.mul, operator.floordiv),
}
"""Those whose result may share memory with an argument, and what reads parts and sizes."""

_WRITTEN = {aten.lift_fresh_copy.default}  # of what forward() makes a tensor of, which is written as a copy

_ERASED = {
    *(aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default, aten.feature_dropout_.default),
    *(aten.alpha_dropout.default, aten.alpha_dropout_.default),
    *(aten.feature_alpha_dropout.default, aten.feature_alpha_dropout_.default),
}


def functional(program: ExportedProgram, others: Container[Callable[..., Any]] = ()) -> bool:
    """Exchange the in-place calls of a program for calls that return a new tensor; whether that could be done.

    It can where tracing would leave all other operations as they are, or write them as others that are known here, and
    no tensor that is written to shares its memory with another one: it comes from an operation that makes a new tensor,
    and nothing looks at it otherwise. The graph is changed only then.

    Args:
        program: as `torch.export.export` returns it, of a model in evaluation mode.
        others: operations that are to be written as others, which needs tracing.
    """
    calls = [node for node in program.graph.nodes if node.op not in ("placeholder", "output")]
    if not all(_is_known(node) and node.target not in others for node in calls):
        return False
    position = {node: number for number, node in enumerate(program.graph.nodes)}
    if not all(_owns_its_memory(node.args[0], position) for node in calls if node.target in _FUNCTIONAL):
        return False
    for node in calls:
        if node.target in _ERASED:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
        elif node.target in _FUNCTIONAL:
            node.target = _FUNCTIONAL[node.target]
            written = node.args[0]
            written.replace_all_uses_with(node, lambda user, writer=node: position[user] > position[writer])
    program.graph.eliminate_dead_code()
    return True


def _is_known(node: fx.Node) -> bool:
    if node.target in _ERASED:
        return not node.args[2]
    if node.target is aten.batch_norm.default:
        return not node.args[5]
    if node.target in _FUNCTIONAL:  # a result is of the dtype that is written to, and a new tensor of the widest one
        return len({getattr(source.meta["val"], "dtype", None) for source in node.all_input_nodes}) == 1
    return node.op == "call_function" and (node.target in _FRESH | _VIEWS or _is_basic(node.target))


def _is_basic(op: Any) -> bool:
    """Whether an operation writes to nothing and is not written as others: tracing again leaves it as it is."""
    if not isinstance(op, OpOverload) or op.namespace != "aten" or op._schema.is_mutable or op in _WRITTEN:
        return False
    composite = op.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)
    return not composite and DispatchKey.Autograd not in op.py_kernels  # where PyTorch has written it in Python


def _is_fresh(op: Any) -> bool:
    """Whether a result is a new tensor; ``unsafe`` views do not say in their schemas that theirs is none."""
    if "unsafe" in str(op):
        return False
    return op in _FRESH or (_is_basic(op) and all(result.alias_info is None for result in op._schema.returns))


def _owns_its_memory(written: fx.Node, position: Mapping[fx.Node, int]) -> bool:
    """Whether a tensor is a new one, and no view of it, under whatever name, is older than the last write to it."""
    names = [written]
    while names[0].target in _ERASED or names[0].target in _FUNCTIONAL:  # each returns what it is given
        names = [names[0].args[0]]
    if not _is_fresh(names[0].target):
        return False
    for name in names:
        names += [user for user in name.users if user.args[0] is name and user.target in {*_ERASED, *_FUNCTIONAL}]
    last = max((position[name] for name in names if name.target in _FUNCTIONAL), default=0)
    return not any(_is_view(user) and position[user] < last for name in names for user in name.users)


def _is_view(user: fx.Node) -> bool:
    known = _is_fresh(user.target) or user.target in _FUNCTIONAL or user.target in _ERASED
    return user.op == "call_function" and not known
