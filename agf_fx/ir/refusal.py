"""Refusal of calls that no rule covers, before anything is emitted."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.errors import UnsupportedOpError
from agf_fx.ir import text
from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import TensorType, carried_type
from agf_fx.ir.vocabulary import KEYWORDS, VOCABULARY, depends_on_images, op_of, operands, signals

aten = torch.ops.aten


def refuse_unknown(canonical: CanonicalGraph, node: fx.Node) -> None:
    """Raise if ``node`` computes from the images with an operation, or in a way, that no rule covers."""
    if not node.meta["depends_on_images"]:
        return
    name = str(node.target)
    if node.target in _BATCH_STATISTICS:
        problem = (
            "batch norm takes mean and variance of the batch here, so the logits of an image change with the other "
            "images; use its running statistics (track_running_stats=True, training=False), or another norm"
        )
        raise unsupported(canonical, node, problem, advice=False)
    if op_of(node) is None:
        raise unsupported(canonical, node, f"no relevance rule for {name}")
    unknown = set(node.kwargs) - KEYWORDS.get(node.target, set())
    if unknown and not facts(node).captured_vjp:
        raise unsupported(canonical, node, f"no relevance rule for {name} with {', '.join(sorted(unknown))} given")
    if any(isinstance(item, fx.Node) and _is_number(item) for item in operands(node)):
        raise unsupported(canonical, node, f"no relevance rule for {name} with the batch size as an operand")
    if _mixes_samples(node):
        raise unsupported(canonical, node, f"no relevance rule for {name} that mixes samples of a batch")
    if any(depends_on_images(other) and other not in operands(node) for other in node.all_input_nodes):
        raise unsupported(canonical, node, f"no relevance rule for {name} with weights computed from the images")


_BATCH_STATISTICS = {
    aten._native_batch_norm_legit.no_stats,
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_functional.default,
}


def _is_number(node: fx.Node) -> bool:
    """Whether a node is a number that is computed from the batch size, or a comparison of it."""
    return not isinstance(node.meta["type"], TensorType | tuple)


def _mixes_samples(node: fx.Node) -> bool:
    """Whether values of one image meet values of another; reshapes and permutations cannot be judged, and pass."""
    kind, operand = carried_type(node), signals(node)[0].meta["type"] if signals(node) else None
    if kind.batch_dim is None:
        return True
    if not isinstance(operand, TensorType):
        return False
    batch = operand.batch_dim
    if node.target is aten.matmul.default:
        return batch >= operand.rank - len(signals(node))  # rows of one signal stay apart
    if node.target is aten.group_norm.default:
        return batch > 0
    if node.target in (aten.layer_norm.default, aten.rms_norm.default):
        return batch >= operand.rank - len(node.args[1])
    position = _DIMS.get(node.target)
    if position is None:
        return False
    dims = node.args[position]
    if dims in ([], None):  # all of them
        return True
    return batch in dims if isinstance(dims, list | tuple) else batch == dims


# Where an operation that treats some dimensions as one value names these dimensions.
_DIMS = {
    aten.mean.dim: 1,
    aten.sum.dim_IntList: 1,
    aten.amax.default: 1,
    aten.logsumexp.default: 1,
    aten.softmax.int: 1,
    aten.log_softmax.int: 1,
    aten.linalg_vector_norm.default: 2,
    aten.cat.default: 1,
    aten.slice.Tensor: 1,
    aten.select.int: 1,
    aten.index_select.default: 1,
    aten.roll.default: 2,
}


def unsupported(
    canonical: CanonicalGraph, node: fx.Node, problem: str, *, advice: bool = True, tried: bool = False
) -> UnsupportedOpError:
    """The error for a call that has no rule, with everything a user needs to go on; ``problem`` may say it all.

    Args:
        canonical: the graph.
        node: the call.
        problem: what is wrong with it.
        advice: whether to say what to do.
        tried: whether its derivative has been tried.
    """
    module, source = node.meta.get("module", ""), node.meta.get("source", "")
    where = f"module {module!r}" if module else f"{canonical.name}.forward"
    lines = [f"{problem} (in {where})"]
    if source:
        lines.append(f"  at {source}")
    lines.append(text.excerpt(canonical.graph, node))
    if advice and node.target in VOCABULARY:
        lines.append("Write the model without this use of it.")
    elif advice:
        rule = f"Register a rule with agf_fx.register_rule(torch.ops.{node.target}, ...)"
        kind = node.meta["type"]
        if tried or (isinstance(kind, TensorType) and not kind.dtype.is_floating_point):
            lines.append(f"{rule}, or write the model without it.")
        else:
            lines.append(
                f"{rule}, write the model without it, or explain it by its gradient: "
                'agf_fx.compile(..., unknown_ops="gradient").'
            )
    return UnsupportedOpError("\n".join(lines), op=str(node.target), module_path=module, source=source)
