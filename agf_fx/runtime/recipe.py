"""What a model is compiled to: the arguments of `agf_fx.compile` but for the model and its images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch

from agf_fx.errors import OptionsError
from agf_fx.frontend.capture import UNKNOWN_OPS
from agf_fx.frontend.outputs import Output, check_output
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.methods.gradient import gradient_times_input
from agf_fx.methods.method import Method
from agf_fx.options import BACKENDS, PRECISIONS, AGFOptions, CompileOptions, require_one_of
from agf_fx.runtime.backends import choose
from agf_fx.runtime.weights import REDUCED, Placement, place

METHODS = ("agf", "gradient-x-input")


@dataclass(frozen=True)
class Recipe:
    """See `agf_fx.compile` for every field.

    Raises:
        OptionsError: unknown method, backend or precision, or options that do not belong to the method.
    """

    method: str = "agf"
    options: AGFOptions | None = None
    backend: str = "eager"
    precision: str | None = None
    compile_options: CompileOptions = field(default_factory=CompileOptions)
    output: Output = None
    unknown_ops: str = "refuse"
    channel_dim: int | str | None = "auto"

    def __post_init__(self) -> None:
        require_one_of("backend", self.backend, BACKENDS)
        require_one_of("unknown_ops", self.unknown_ops, UNKNOWN_OPS)
        check_output(self.output)
        if self.channel_dim not in ("auto", None) and type(self.channel_dim) is not int:
            raise OptionsError(f'channel_dim is {self.channel_dim!r}; give a dimension of the images, None, or "auto".')
        if self.precision is not None:
            require_one_of("precision", self.precision, PRECISIONS)
        object.__setattr__(self, "method", self.method.replace("_", "-"))
        if self.method not in METHODS:
            raise OptionsError(f"no method {self.method!r}; choose one of {', '.join(map(repr, METHODS))}.")
        if self.method == "gradient-x-input" and self.options is not None:
            raise OptionsError("gradient-x-input has no options; leave options=None.")

    def rules(self) -> Method:
        """The method as a rule table, with the rules registered so far."""
        if self.method == "agf":
            method = attribution_guided_factorization(self.options or AGFOptions())
        else:
            method = gradient_times_input()
        return dataclasses.replace(method, channel_dim=self.channel_dim)

    def described(self) -> dict[str, Any]:
        """Method, its options and the precision as plain values: all that decides what is computed."""
        options = dataclasses.asdict(self.options or AGFOptions()) if self.method == "agf" else {}
        channels = {} if self.channel_dim == "auto" else {"channel_dim": self.channel_dim}
        return {"method": self.method, "options": options, "precision": self.precision, **channels}

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
