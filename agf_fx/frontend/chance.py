"""Operations that draw at random: a map explains one draw, which the next call does not repeat."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from agf_fx.errors import CaptureError
from agf_fx.frontend.tracing import origin

_SWITCHES = ("train", "training")  # arguments that are False where nothing is drawn,
_PROBABILITIES = ("p", "dropout", "dropout_p")  # and 0


def refuse_random(program: ExportedProgram, name: str) -> None:
    """Refuse a program in which anything is drawn at random.

    Raises:
        CaptureError: the operation, the user's line and what to do.
    """
    for node in program.graph.nodes:
        if node.op == "call_function" and node.users and _is_random(node):
            place = origin(node)
            where = f" in module {place['module']!r}" if place["module"] else ""
            line = f"\n  at {place['source']}" if place["source"] else ""
            raise CaptureError(
                f"{name} draws at random in evaluation mode ({node.target}{where}), and a map would explain a single "
                "draw. If it is dropout, pass training=self.training (F.dropout and its likes have training=True for a "
                f"default); otherwise give the model the expected value in place of a draw.{line}"
            )


def _is_random(node: fx.Node) -> bool:
    """Whether PyTorch says that the operation draws, and no argument switches that off."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    arguments = _arguments(node)
    off = any(arguments.get(switch) is False for switch in _SWITCHES)
    never = any(arguments.get(probability) in (0, 0.0) for probability in _PROBABILITIES if probability in arguments)
    return not (off or never)


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by name, defaults included."""
    schema = node.target._schema.arguments
    given = dict(zip((argument.name for argument in schema), node.args, strict=False))
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return {**defaults, **given, **node.kwargs}
