"""The extension point: rules for operations that are not in the vocabulary."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from agf_fx.errors import OptionsError
from agf_fx.ir.vocabulary import VOCABULARY, Family, Op
from agf_fx.rules.gradients import VJPS
from agf_fx.rules.rule import Rule
from agf_fx.rules.site import Vjp

_BUILT_IN = frozenset(VOCABULARY)
_REGISTERED: dict[Callable[..., Any], Rule] = {}
_TAUGHT: set[Callable[..., Any]] = set()


def register_rule(op: torch._ops.OpOverload, rule: Rule | str, *, vjp: Vjp, operands: Sequence[int] = (0,)) -> None:
    """Teach agf-fx an operation.

    Rule and vjp are written with Python's operators, functions of ``torch`` and operator overloads
    (``torch.ops.aten.i0.default``), and branch on no value: the same code runs on tensors and builds the graph.
    Forward values have the shape (N, ...), gradients and relevances (K, N, ...) for K targets, so that they broadcast;
    an adjoint that knows one batch dimension goes through ``site.per_target``. For example, for y = I₀(x)::

        agf_fx.register_rule(
            torch.ops.aten.i0.default,
            "proportional",
            vjp=lambda site, g: (g * torch.ops.aten.special_i1.default(site.x),),
        )

    Without a rule of one's own, ``agf_fx.compile(..., unknown_ops="gradient")`` takes PyTorch's derivative.

    Args:
        op: the operation as it appears in the error message, e.g. ``torch.ops.aten.digamma.default`` or an operation
            of your own library. Operations of agf-fx's own vocabulary cannot be replaced.
        rule: relevance at the operands: ``rule(site, relevance) -> tuple``, of ordinary torch operations, or
            an `agf_fx.rules.rule.Rule`, which also says what it promises (see ``agf_fx.rules.propagation``); or the
            name of a family whose rule applies: ``"proportional"``, ``"pass-through"``, ``"data movement"`` or
            ``"merge"``.
            ``site.sent["gradient"]`` has the gradients at the output and at the operands, where a method has them.
        vjp: gradients at the operands: ``vjp(site, gradient) -> tuple``, likewise.
        operands: positions of the arguments that carry relevance.

    Raises:
        OptionsError: the operation is built in or no overload, or the family is unknown.
    """
    if not isinstance(op, torch._ops.OpOverload):
        raise OptionsError(f"{op!r} is no operator overload; give e.g. torch.ops.aten.digamma.default.")
    if op in _BUILT_IN:
        raise OptionsError(f"{op} is built in; its rule cannot be replaced.")
    families = (Family.PROPORTIONAL, Family.PASS_THROUGH, Family.DATA_MOVEMENT, Family.MERGE)
    if isinstance(rule, str) and rule not in families:
        raise OptionsError(f"no rule family {rule!r}; choose one of {', '.join(families)}, or give a function.")
    if not (isinstance(rule, str) or callable(rule)) or not callable(vjp):
        raise OptionsError("rule must be a function or the name of a family, and vjp a function.")
    for name, function in {"rule": rule, "vjp": vjp}.items():
        if callable(function) and not _takes_two(function):
            raise OptionsError(f"{name} must take two arguments, {name}(site, message); see agf_fx.register_rule.")
    positions = sum(not argument.kwarg_only for argument in op._schema.arguments)
    if not operands or not all(isinstance(i, int) and 0 <= i < positions for i in operands):
        raise OptionsError(f"operands {tuple(operands)} must be positions of arguments of {op}, 0 … {positions - 1}.")
    family = Family(rule) if isinstance(rule, str) else Family.PROPORTIONAL
    alone = Family.PASS_THROUGH if family is Family.MERGE else None
    VOCABULARY[op] = Op(family, tuple(operands), alone)
    VJPS[op] = vjp
    _TAUGHT.add(op)
    _REGISTERED.pop(op, None)
    if not isinstance(rule, str):
        _REGISTERED[op] = rule if isinstance(rule, Rule) else Rule(rule, getattr(rule, "__name__", "registered"))


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with two positional arguments, as far as Python can tell."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a function of C without a signature
        return True
    return True


def registered_rules() -> dict[Callable[..., Any], Rule]:
    """The rules given as functions so far."""
    return dict(_REGISTERED)


def taught_operations() -> dict[Callable[..., Any], tuple[Op, Vjp, Rule | None]]:
    """What has been registered, by operation: its place in the vocabulary, its gradient, and its rule if given."""
    return {op: (VOCABULARY[op], VJPS[op], _REGISTERED.get(op)) for op in sorted(_TAUGHT & VOCABULARY.keys(), key=str)}
