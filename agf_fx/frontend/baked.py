"""Values of a model that a captured graph may contain: what was captured is out of date when they change."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from agf_fx.frontend.held import PLAIN, functions_of, held
from agf_fx.frontend.isolation import global_hooks, hooks_of

_REGISTRIES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Places:
    """Where such values are.

    Tensors are in attributes of modules: plain ones, or containers, such as a cache of computed values. Parameters are
    never among them, nor are buffers, unless the model decides by the values of buffers: what is computed from those is
    part of the graph. And tensors and numbers are in closures, defaults and globals of functions; numbers and words are
    settings of modules.

    Attributes:
        names: (dotted path of a module, attribute) of each attribute with tensors.
        functions: those of the user's that take part.
        choice: what the logits are chosen by.
    """

    names: tuple[tuple[str, str], ...]
    functions: tuple[types.FunctionType, ...]
    choice: Any = None

    def tensors(self, model: nn.Module) -> list[Tensor]:
        """The tensors that are there now; fewer, or others, when the model has changed."""
        modules = dict(model.named_modules()) if self.names else {}
        found = (_at(modules.get(path), attribute) for path, attribute in self.names)
        return [leaf for value in found for leaf in _tensors(value)]

    def now(self, model: nn.Module) -> tuple[list[Tensor], list[Any]]:
        """All tensors, and all plain values: which modules there are, their settings, and what functions hold.

        With them the functions and hooks of forward passes, and which weights are one, as tied ones are.
        """
        tensors, values = held(self.functions, model, self.choice)
        plain: list[Any] = [*values, *map(id, global_hooks())]
        known: dict[int, int] = {}
        for module in model.modules():
            plain.append(id(module))
            plain += [value for name, value in vars(module).items() if _is_plain(value) and name != "training"]
            plain += map(id, hooks_of(module))
            plain.append(id(type(module).forward))
            weights = (*module._parameters.values(), *module._buffers.values())
            plain += [None if weight is None else known.setdefault(id(weight), len(known)) for weight in weights]
        return [*self.tensors(model), *tensors], plain


def places(model: nn.Module, *, buffers: bool, output: Any = None) -> Places:
    """Where ``model`` keeps such values.

    Args:
        model: the model.
        buffers: whether it may have read the values of its buffers while it was traced.
        output: the choice of its logits.
    """
    return Places(tuple(_places(model, buffers)), functions_of(model, output), output)


def _places(model: nn.Module, buffers: bool) -> Iterator[tuple[str, str]]:
    for path, module in model.named_modules():
        own = {name: value for name, value in vars(module).items() if name not in _REGISTRIES}
        if buffers and not type(module).__module__.startswith("torch.nn."):
            own |= module._buffers
        yield from ((path, name) for name, value in own.items() if _tensors(value))


def _at(module: nn.Module | None, attribute: str) -> object:
    return None if module is None else vars(module).get(attribute, module._buffers.get(attribute))


def _is_plain(value: object) -> bool:
    return all(map(_is_plain, value)) if type(value) is tuple else type(value) in PLAIN


def _tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
