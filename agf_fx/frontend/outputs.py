"""Which tensor of a model's return value holds the logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, fx, nn

from agf_fx.errors import CaptureError, OptionsError

Output = int | str | Callable[[Any], Any] | None


def check_output(output: Output) -> None:
    """Check that ``output`` is of a kind that `chosen` understands.

    Raises:
        OptionsError: it is not.
    """
    named = isinstance(output, str) and output != ""
    index = isinstance(output, int) and not isinstance(output, bool)
    if not (output is None or named or index or callable(output)):
        raise OptionsError(
            f"output is {output!r}; give a key, an attribute, an index, a dotted path such as 'heads.0', or a function "
            "of the model's return value."
        )


def chosen(value: Any, output: Output, name: str) -> Any:
    """The logits in what a model returned.

    Args:
        value: what the model called ``name`` returned.
        output: a key, an attribute, an index, a dotted path of these, or a function of ``value``; None where
            ``value`` is the tensor itself.

    Raises:
        CaptureError: ``value`` has no such part, or the part is not a tensor; candidates are listed.
    """
    part = value if output is None else output(value) if callable(output) else _at(value, output, name)
    if isinstance(part, Tensor | fx.Proxy):
        return part
    if output is None:
        raise CaptureError(
            f"{name} must return one tensor of logits, and returns {_kind(value)}. Say which part holds them with "
            f"output=..., a key, an index, a dotted path, or a function of the return value. {_listed(value)}"
        )
    raise CaptureError(
        f"output={output!r} chooses {_kind(part)} from what {name} returns, and must choose a tensor. {_listed(value)}"
    )


def _at(value: Any, output: int | str, name: str) -> Any:
    if isinstance(output, str) and not (isinstance(value, Mapping) and output in value):
        steps: list[int | str] = list(output.split("."))
    else:
        steps = [output]
    part = value
    for step in steps:
        try:
            part = _step(part, step)
        except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
            raise CaptureError(f"what {name} returns has no output={output!r}. {_listed(value)}") from error
    return part


def _step(value: Any, step: int | str) -> Any:
    if isinstance(value, fx.Proxy) and isinstance(step, str):
        raise TypeError("a key and an attribute cannot be told apart on a proxy")
    if isinstance(step, str) and not (isinstance(value, Mapping) and step in value):
        return value[int(step)] if step.lstrip("-").isdigit() else getattr(value, step)
    return value[step]


def _listed(value: Any) -> str:
    found = [f"{path} of shape {shape}" for path, shape in candidates(value)]
    return f"Its tensors: {'; '.join(found)}." if found else "There is no tensor in it."


def candidates(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The tensors in nested containers: what ``output`` would choose each, and its shape, N for the batch size."""
    if isinstance(value, Tensor):
        shape = ", ".join(str(size) if isinstance(size, int) else "N" for size in value.shape)
        yield (path if path.lstrip("-").isdigit() else repr(path)), f"({shape})"
        return
    for key, item in _items(value):
        yield from candidates(item, f"{path}.{key}" if path else str(key))


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    return list(enumerate(value)) if isinstance(value, tuple | list) else []


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" if value is not None else "None"


class Root(nn.Module):
    """A model and the choice of its logits as one module, for tracing.

    Attributes:
        model: the model; its weights and modules have its name in front of their dotted paths, see `own_path`.
        failure: why no logits could be chosen, in the words for the user.
        measured: global names of functions that may take the ``len`` of a tensor, see `agf_fx.frontend.lengths`.
        unrolled: lines of the user's code that go through a tensor entry by entry.
    """

    def __init__(self, model: nn.Module, output: Output) -> None:
        super().__init__()
        self.model = model
        self.failure: CaptureError | None = None
        self.measured: list[dict[str, Any]] = []
        self.unrolled: list[str] = []
        self._output = (output,)  # a tuple, for a module assigned as it is would become a part of this one

    @property
    def output(self) -> Output:
        """The choice of the logits."""
        return self._output[0]

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        try:
            return chosen(self.model(images), self.output, type(self.model).__name__)
        except CaptureError as failure:
            self.failure = failure
            raise


def own_path(path: str) -> str:
    """A path inside `Root` as a path inside the user's model."""
    return "" if path == "model" else path.removeprefix("model.")
