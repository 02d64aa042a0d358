"""What a model is compiled to: the arguments of `agf_fx.compile` but for the model and its images."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any

import torch

from agf_fx.errors import OptionsError
from agf_fx.frontend.capture import UNKNOWN_OPS
from agf_fx.frontend.outputs import Output, check_output
from agf_fx.ir.graph import LayerOutput
from agf_fx.methods import REGISTRY
from agf_fx.methods.meta import META, MetaOptions
from agf_fx.methods.method import Method
from agf_fx.methods.registry import plain
from agf_fx.options import BACKENDS, PRECISIONS, CompileOptions, require_one_of
from agf_fx.runtime.backends import choose
from agf_fx.runtime.weights import REDUCED, Placement, place


@dataclass(frozen=True)
class Recipe:
    """See `agf_fx.compile` for every field.

    Raises:
        OptionsError: unknown method, backend or precision, or options that do not belong to the method.
    """

    method: str | Method | MetaOptions = "agf"
    options: Any = None
    backend: str = "eager"
    precision: str | None = None
    compile_options: CompileOptions = field(default_factory=CompileOptions)
    output: Output = None
    unknown_ops: str = "refuse"
    channel_dim: int | str | None = "auto"
    layers: tuple[LayerOutput, ...] = ()

    def __post_init__(self) -> None:
        require_one_of("backend", self.backend, BACKENDS)
        require_one_of("unknown_ops", self.unknown_ops, UNKNOWN_OPS)
        check_output(self.output)
        if self.channel_dim not in ("auto", None) and type(self.channel_dim) is not int:
            raise OptionsError(f'channel_dim is {self.channel_dim!r}; give a dimension of the images, None, or "auto".')
        if self.precision is not None:
            require_one_of("precision", self.precision, PRECISIONS)
        if isinstance(self.method, MetaOptions):
            if self.options is not None:
                raise OptionsError("give options of the method inside to it: agf_fx.meta(..., options=...).")
            object.__setattr__(self, "options", self.method)
            object.__setattr__(self, "method", META)
        if isinstance(self.method, Method):
            if self.options is not None:
                raise OptionsError("a Method of your own has no options; leave options=None.")
            return
        entry = REGISTRY[self.method]
        object.__setattr__(self, "method", entry.name)
        object.__setattr__(self, "options", entry.chosen(self.options))

    @property
    def name(self) -> str:
        """The method's name."""
        return self.method.name if isinstance(self.method, Method) else self.method

    @property
    def in_words(self) -> str:
        """The method with those of its options that are not the defaults: ``agf (dialect='paper')``."""
        chosen = []
        for known in dataclasses.fields(self.options) if dataclasses.is_dataclass(self.options) else ():
            value = getattr(self.options, known.name)
            if known.default is dataclasses.MISSING or (value is not known.default and value != known.default):
                chosen.append(f"{known.name}={value!r}")
        return f"{self.name} ({', '.join(chosen)})" if chosen else self.name

    @functools.cached_property
    def made(self) -> Method:
        """The method, with the rules registered so far."""
        own = isinstance(self.method, Method)
        method = self.method if own else REGISTRY[self.method].make(self.options)
        return method if self.channel_dim == "auto" else dataclasses.replace(method, channel_dim=self.channel_dim)

    @property
    def graphed(self) -> Recipe:
        """The recipe of the graph: this one, without the step that moves weights before the graph sees them."""
        if not isinstance(self.options, MetaOptions):
            return self
        return dataclasses.replace(self, method=self.options.method, options=self.options.options)

    @property
    def is_known(self) -> bool:
        """Whether name and options say all about the method, so that what is made of it can be kept and found again."""
        return not isinstance(self.method, Method) and not self.layers

    def described(self) -> dict[str, Any]:
        """Method, its options and the precision as plain values: all that decides what is computed."""
        options = {} if isinstance(self.method, Method) else plain(self.options)
        channels = {} if self.channel_dim == "auto" else {"channel_dim": self.channel_dim}
        return {"method": self.name, "options": options, "precision": self.precision, **channels}

    def backend_on(self, device: torch.device) -> str:
        """What runs the graph on ``device``.

        Raises:
            OptionsError: the backend cannot run there.
        """
        return choose(self.backend, device)

    def placement(self, dtype: torch.dtype, device: torch.device) -> Placement:
        """How the graph of a model of this dtype lies in memory."""
        return place(dtype, self.precision, self.compile_options.memory_format, device)

    @property
    def reduced(self) -> torch.dtype | None:
        """The precision of products in the reverse walk, where it is lower than the rest."""
        return REDUCED.get(self.precision)
