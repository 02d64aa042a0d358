"""Operations that draw at random: a map explains one draw, which the next call does not repeat."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils._python_dispatch import TorchDispatchMode

from agf_fx.errors import CaptureError
from agf_fx.frontend.tracing import origin, user_line

_SWITCHES = ("train", "training")  # arguments that are False where nothing is drawn,
_PROBABILITIES = ("p", "dropout", "dropout_p")  # and 0


def refuse_random(program: ExportedProgram, name: str) -> None:
    """Refuse a program in which anything is drawn at random.

    Raises:
        CaptureError: the operation, the user's line and what to do.
    """
    read = _read(program.graph)
    for node in program.graph.nodes:
        if node in read and node.op == "call_function" and _is_random(node.target, node.args, node.kwargs):
            place = origin(node)
            where = f" in module {place['module']!r}" if place["module"] else ""
            line = f"\n  at {place['source']}" if place["source"] else ""
            raise CaptureError(
                f"{name} draws at random in evaluation mode ({node.target}{where}), and a map would explain a single "
                "draw. If it is dropout, pass training=self.training (F.dropout and its likes have training=True for a "
                f"default); otherwise give the model the expected value in place of a draw.{line}"
            )


class Draws(TorchDispatchMode):
    """Notices the user's lines that draw random numbers while it is on; what they give becomes constants of a trace.

    Attributes:
        lines: the lines.
    """

    observes = True

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if _is_random(func, args, kwargs or {}):
            self.lines.append(user_line())
        return func(*args, **(kwargs or {}))


def _read(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that the results depend on; torch.fx keeps those that draw, read or not."""
    read = {graph.output_node()}
    for node in reversed(graph.nodes):
        if node in read:
            read.update(node.all_input_nodes)
    return read


def _is_random(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether PyTorch says that the operation draws, and no argument switches that off."""
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return False
    arguments = _arguments(target, args, kwargs)
    off = any(arguments.get(switch) is False for switch in _SWITCHES)
    never = any(arguments.get(probability) in (0, 0.0) for probability in _PROBABILITIES if probability in arguments)
    return not (off or never)


def _arguments(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, defaults included."""
    schema = target._schema.arguments
    given = dict(zip((argument.name for argument in schema), args, strict=False))
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return {**defaults, **given, **kwargs}
