"""What images are compared with: one number for every entry, or images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from agf_fx.errors import OptionsError
from agf_fx.frontend.identity import tensor_digest
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.types import TensorType
from agf_fx.options import is_number, require_number

ENDINGS = (".npy", ".pt", ".safetensors")


class Baseline:
    """One or several baselines. They are copied, and never change; two are equal if their values and dtypes are.

    Attributes:
        values: a number, with no dimensions, or images as the model takes them: (*image) or (B, *image).
    """

    def __init__(self, values: float | Tensor | np.ndarray | str | Path | Baseline) -> None:
        """A baseline from a number, a tensor or an array, or a file of one: .npy, .pt or .safetensors.

        Raises:
            OptionsError: they are no finite floating-point numbers, or the file holds no tensor.
        """
        self.values = values.values if isinstance(values, Baseline) else _checked(_read(values))
        self._digest = tensor_digest(self.values)

    def images(self, kind: TensorType) -> Tensor:
        """The baselines for images of a type, in their dtype: (B, *image).

        Raises:
            OptionsError: they have another shape.
        """
        shape, wanted, values = tuple(self.values.shape), kind.sample_shape, self.values.to(kind.dtype)
        if not shape:
            return values.expand(1, *wanted).contiguous()
        if wanted not in (shape, shape[1:]):
            raise OptionsError(
                f"baseline has the shape {shape}, and images are {wanted}; give one of this shape, or several, "
                f"{('B', *wanted)}.".replace("'", "")
            )
        return values.reshape(-1, *wanted)

    @property
    def is_number(self) -> bool:
        """Whether it is one number for every entry."""
        return not self.values.shape

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Baseline) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __deepcopy__(self, memo: Any) -> Baseline:
        return self

    def __repr__(self) -> str:
        kind = str(self.values.dtype).removeprefix("torch.")
        return f"{kind}{list(self.values.shape)} of SHA-256 {self._digest}"


NOT_FINITE = (
    "the network computes NaN at the baseline, as standardising an image does where all its pixels are the same (give "
    "another one, baseline=...), or "
)
"""What may be wrong with maps that look at a baseline."""


def checked_baseline(value: Any) -> float | Baseline:
    """The value of an option: a finite number as it is, anything else as a `Baseline`.

    Raises:
        OptionsError: it is none.
    """
    if is_number(value):
        require_number("baseline", value)
        return value
    return Baseline(value)


def images_of(baseline: float | Baseline) -> Baseline | None:
    """What a method of points has as its ``baseline``: images, where they are given; a number is none."""
    return baseline if isinstance(baseline, Baseline) else None


def _read(values: Any) -> Any:
    if not isinstance(values, str | Path):
        return values
    path = Path(values)
    if path.suffix not in ENDINGS:
        raise OptionsError(f"baseline is {str(values)!r}; give a number, or a file that ends in {', '.join(ENDINGS)}.")
    if not path.is_file():
        raise OptionsError(f"baseline is {str(values)!r}, and there is no such file here.")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of itself
        raise OptionsError(f"baseline: {path} cannot be read: {error}") from error
    if isinstance(found, dict):
        if len(found) != 1:
            raise OptionsError(f"baseline: {path} holds {len(found)} tensors; give a file of one.")
        (found,) = found.values()
    return found


def _checked(values: Any) -> Tensor:
    """A copy of the values on the CPU."""
    if is_number(values):
        values = torch.tensor(values, dtype=torch.float64)
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        values = torch.from_numpy(np.ascontiguousarray(values))
    if not isinstance(values, Tensor):
        raise OptionsError(
            f"baseline is a {type(values).__name__}; give a number, or images as the model takes them: a tensor, an "
            f"array, or a file that ends in {', '.join(ENDINGS)}."
        )
    if not values.is_floating_point():
        raise OptionsError(
            f"baseline holds {str(values.dtype).removeprefix('torch.')}; give floating-point images, normalised as the "
            "model takes them."
        )
    if not values.numel() or not bool(values.isfinite().all()):
        raise OptionsError("baseline is empty, or holds NaN or infinite values; give finite ones.")
    return values.detach().to("cpu", copy=True).contiguous()


def one_baseline(baseline: Baseline) -> Callable[[CanonicalGraph], None]:
    """A need: that there is one baseline only, in the shape of the images.

    Raises:
        OptionsError: there are several.
    """

    def check(canonical: CanonicalGraph) -> None:
        count = len(baseline.images(canonical.image_type))
        if count > 1:
            raise OptionsError(
                f"baseline holds {count} images, and this method compares with one; give one, or choose deep-shap or "
                "expected-gradients, which take the mean over several."
            )

    return check
