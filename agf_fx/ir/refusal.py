"""Refusal of calls that no rule covers, before anything is emitted."""

from __future__ import annotations

import torch
from torch import fx

from agf_fx.errors import UnsupportedOpError
from agf_fx.ir import text
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import TensorType
from agf_fx.ir.vocabulary import VOCABULARY, Family, depends_on_images, operands, signals

aten = torch.ops.aten


def refuse_unknown(canonical: CanonicalGraph, node: fx.Node) -> None:
    """Raise if ``node`` computes from the images with an operation, or in a way, that no rule covers."""
    if not node.meta["depends_on_images"]:
        return
    name = str(node.target)
    if node.target is aten.sym_size.int:
        reader = next(iter(node.users))
        raise unsupported(canonical, reader, f"{reader.target} takes the batch size as a number; no rule for that")
    if node.target not in VOCABULARY:
        raise unsupported(canonical, node, f"no relevance rule for {name}")
    if node.kwargs:
        raise unsupported(canonical, node, f"no relevance rule for {name} with {', '.join(node.kwargs)} given")
    if isinstance(node.meta["type"], TensorType) and not node.meta["type"].batched:
        raise unsupported(canonical, node, f"no relevance rule for {name} that mixes samples of a batch")
    kind = VOCABULARY[node.target]
    if kind.operands == (0, 1):
        carriers = signals(node)
        if kind.family is Family.PASS_THROUGH and (len(carriers) > 1 or carriers[0] is not node.args[0]):
            raise unsupported(canonical, node, f"no relevance rule for {name} of two signals, or by a signal")
        shape = node.meta["type"].shape
        if any(carrier.meta["type"].shape != shape for carrier in carriers):
            raise unsupported(canonical, node, f"no relevance rule for {name} that broadcasts a signal")
    elif any(depends_on_images(other) and other not in operands(node) for other in node.all_input_nodes):
        raise unsupported(canonical, node, f"no relevance rule for {name} with weights computed from the images")


def unsupported(canonical: CanonicalGraph, node: fx.Node, problem: str) -> UnsupportedOpError:
    """The error for a call that has no rule, with everything a user needs to go on."""
    module, source = node.meta.get("module", ""), node.meta.get("source", "")
    where = f"module {module!r}" if module else f"{canonical.name}.forward"
    lines = [f"{problem} (in {where})"]
    if source:
        lines.append(f"  at {source}")
    lines.append(text.excerpt(canonical.graph, node))
    if node.target in VOCABULARY:
        lines.append("Write the model without this use of it.")
    else:
        lines.append(
            f"Register a rule with agf_fx.register_rule(torch.ops.{node.target}, ...), or write the model without it."
        )
    return UnsupportedOpError("\n".join(lines), op=str(node.target), module_path=module, source=source)
