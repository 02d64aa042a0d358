"""Tensors of a model whose values a captured graph may contain: what was captured is out of date when they change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils import _pytree as pytree

_REGISTRIES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Places:
    """Attributes of modules that hold such tensors: plain ones, or containers, such as a cache of computed values.

    Parameters are never among them, nor are buffers, unless the model decides by the values of buffers: what is
    computed from those is part of the graph.

    Attributes:
        names: (dotted path of a module, attribute) of each.
    """

    names: tuple[tuple[str, str], ...]

    def tensors(self, model: nn.Module) -> list[Tensor]:
        """The tensors that are there now; fewer, or others, when the model has changed."""
        modules = dict(model.named_modules()) if self.names else {}
        found = (_at(modules.get(path), attribute) for path, attribute in self.names)
        return [leaf for value in found for leaf in _tensors(value)]


def places(model: nn.Module, *, buffers: bool) -> Places:
    """Where ``model`` keeps such tensors.

    Args:
        model: the model.
        buffers: whether it may have read the values of its buffers while it was traced.
    """
    return Places(tuple(_places(model, buffers)))


def _places(model: nn.Module, buffers: bool) -> Iterator[tuple[str, str]]:
    for path, module in model.named_modules():
        own = {name: value for name, value in vars(module).items() if name not in _REGISTRIES}
        if buffers and not type(module).__module__.startswith("torch.nn."):
            own |= module._buffers
        yield from ((path, name) for name, value in own.items() if _tensors(value))


def _at(module: nn.Module | None, attribute: str) -> object:
    return None if module is None else vars(module).get(attribute, module._buffers.get(attribute))


def _tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
