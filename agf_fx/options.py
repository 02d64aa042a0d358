"""Frozen options. Two equal option objects always compile to the same explanation graph."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields, replace

from agf_fx.errors import OptionsError

DIALECTS = ("reference", "paper")
BACKENDS = ("eager", "inductor", "cudagraphs", "auto")
PRECISIONS = ("float64", "float32", "tf32", "bfloat16", "float16")
MEMORY_FORMATS = ("auto", "contiguous", "channels_last")
NUMERATORS = ("factorisation", "gradcam")
ATTENTION = ("attnlrp", "cp")
MERGES = ("auto", "z", "ratio")
FLAT_CONVOLUTIONS = ("auto", "reference", "none")
DIVISIONS = ("reference", "exact")
CACHES = ("disk", "memory", "off")
CACHE_VARIABLE = "AGF_FX_CACHE"


@dataclass(frozen=True)
class AGFOptions:
    """Options of Attribution Guided Factorization (Gur, Ali and Wolf, AAAI 2021).

    Attributes:
        dialect: ``"reference"`` follows the published code, which produced the paper's tables:
            H = sigmoid(10·N_max(Y)), a ridge of 1 in the factorisation, φ = 0 in neither region.
            ``"paper"`` follows the text: H = sigmoid(N_max(Y)), plain least squares (the minimum-norm
            solution where R has rank one), φ = 0 in the background.
        input_agnostic: keep A, the input-agnostic influence (eq. 10).
        factorise_input: keep F_x, the factorisation of a layer's input (eq. 11).
        factorise_gradient: keep F_∇x, the factorisation of its gradient (eq. 11).
        input_gradient: keep M, the input-gradient interaction of convolutions (eq. 12).
        regulariser: divide F_x + M by 1 + exp(-C) (eq. 13).
        numerator: ``"factorisation"`` for F_x + M, or ``"gradcam"`` to put a Grad-CAM term (eq. 6) in
            its place, as the last column of Tab. 5 does.

        attention: ``"attnlrp"`` halves the relevance of attention between values and attention weights (AttnLRP,
            Achtibat et al. 2024); ``"cp"`` takes the weights for constants (Ali et al. 2022).
        merge: how a sum hands on relevance: ``"z"`` by the terms' shares of the sum, as the published code does;
            ``"ratio"`` by their sizes, |a| / (|a| + |b|); ``"auto"`` takes z where the sum is rectified next and no
            layer with residual terms reads it, as in bottlenecks, and ratio elsewhere, where sums close to zero would
            blow relevance up: in basic blocks, and where no ReLU follows.
        flat_convolutions: which convolutions have no residual terms. ``"reference"``: inside residual regions those
            with a 1×1 kernel and those that feed the sum, as in the published code; ``"auto"``: also 1×1 kernels
            elsewhere; ``"none"``: no convolution is flat.
        division: ``"reference"`` adds the published code's 1e-9 to every denominator, and drops relevance whose
            denominator is 0; ``"exact"`` divides exactly and spreads such relevance evenly over the layer's other
            outputs, so that the rules conserve relevance to the precision of the dtype.

    Switching one of the five parts off gives the ablations of Tab. 5.

    Raises:
        OptionsError: a value is unknown, or ``numerator="gradcam"`` meets a switched-off F_x or M.
    """

    dialect: str = "reference"
    input_agnostic: bool = True
    factorise_input: bool = True
    factorise_gradient: bool = True
    input_gradient: bool = True
    regulariser: bool = True
    numerator: str = "factorisation"
    attention: str = "attnlrp"
    merge: str = "auto"
    flat_convolutions: str = "auto"
    division: str = "reference"

    def __post_init__(self) -> None:
        require_one_of("AGFOptions.dialect", self.dialect, DIALECTS)
        require_one_of("AGFOptions.numerator", self.numerator, NUMERATORS)
        require_one_of("AGFOptions.attention", self.attention, ATTENTION)
        require_one_of("AGFOptions.merge", self.merge, MERGES)
        require_one_of("AGFOptions.flat_convolutions", self.flat_convolutions, FLAT_CONVOLUTIONS)
        require_one_of("AGFOptions.division", self.division, DIVISIONS)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "bool":
                require_flag(f"AGFOptions.{field.name}", value)
        if self.numerator == "gradcam" and not (self.factorise_input and self.input_gradient):
            raise OptionsError(
                'numerator="gradcam" replaces F_x + M, so factorise_input=False or input_gradient=False '
                "would have no effect; leave both True."
            )

    def only_c(self) -> AGFOptions:
        """These options with every residual part off: relevance is C alone (Tab. 5, "Only C")."""
        return replace(
            self,
            input_agnostic=False,
            factorise_input=False,
            factorise_gradient=False,
            input_gradient=False,
        )


@dataclass(frozen=True)
class CompileOptions:
    """How a compiled explanation is run. None of these changes what is computed, beyond rounding.

    Attributes:
        max_batch: the most (image, target) pairs to explain at once; a larger request is split. None: no limit but
            the memory's, and on a CPU pieces that fit its caches.
        memory_limit: the most bytes that the values of one explanation may take besides weights and results; a larger
            request is split. None: no limit. Even one pair may need more, which raises a MemoryLimitError.
        memory_format: ``"channels_last"``, ``"contiguous"``, or ``"auto"``, which takes channels-last where it measures
            faster: in single and lower precision on a CPU, in lower precision on a GPU.
        cache: where compiled graphs are kept and looked for: ``"disk"`` (in the folder that ``AGF_FX_CACHE_DIR`` names,
            or the user's cache folder) and in memory, in ``"memory"`` only, or ``"off"``. None: what the environment
            variable ``AGF_FX_CACHE`` says, or else ``"disk"``.

    Raises:
        OptionsError: a value is unknown or not positive.
    """

    max_batch: int | None = None
    memory_limit: int | None = None
    memory_format: str = "auto"
    cache: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_batch", "memory_limit"):
            value = getattr(self, name)
            if value is not None and not (_is_whole(value) and value > 0):
                raise OptionsError(f"CompileOptions.{name} is {value!r}; give a positive whole number, or None.")
        require_one_of("CompileOptions.memory_format", self.memory_format, MEMORY_FORMATS)
        if self.cache is not None:
            require_one_of("CompileOptions.cache", self.cache, CACHES)

    @property
    def caching(self) -> str:
        """``cache``, or what stands for None.

        Raises:
            OptionsError: the environment variable has an unknown value.
        """
        chosen = self.cache or os.environ.get(CACHE_VARIABLE) or "disk"
        require_one_of(CACHE_VARIABLE, chosen, CACHES)
        return chosen


def require_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise an OptionsError that lists what ``name`` may be, unless ``value`` is that."""
    if value not in allowed:
        raise OptionsError(f"{name} is {value!r}; choose one of {', '.join(map(repr, allowed))}.")


def require_flag(name: str, value: object) -> None:
    """Raise an OptionsError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise OptionsError(f"{name} is {value!r}; give True or False.")


def require_whole(name: str, value: object, least: int) -> None:
    """Raise an OptionsError unless ``value`` is a whole number of ``least`` or more."""
    _require_fit(name, value)
    if not _is_whole(value) or value < least:
        raise OptionsError(f"{name} is {value!r}; give a whole number of {least} or more.")


def require_number(
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Raise an OptionsError unless ``value`` is a finite number, from ``least`` to ``most``, and between the others."""
    _require_fit(name, value)
    known = is_number(value) and math.isfinite(value)
    if not known or not (least <= value <= most and above < value < below):
        bounds = {
            f"of {least:g} or more": least,
            f"above {above:g}": above,
            f"of {most:g} or less": most,
            f"below {below:g}": below,
        }
        stated = " and ".join(text for text, bound in bounds.items() if math.isfinite(bound))
        raise OptionsError(f"{name} is {value!r}; give {f'a number {stated}' if stated else 'a finite number'}.")


def is_number(value: object) -> bool:
    """Whether ``value`` is an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_fit(name: str, value: object) -> None:
    """Raise an OptionsError for a whole number that is too large for PyTorch."""
    if _is_whole(value) and not -(1 << 63) <= value < 1 << 63:
        raise OptionsError(f"{name} is a whole number beyond 2**63; give a smaller one, or a float.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
