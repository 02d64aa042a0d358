"""Real handwritten digits (8x8, from scikit-learn), split so that no writer is in both parts."""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import numpy as np

from agf_fx.errors import MissingDependencyError, OptionsError

Split = Literal["train", "test"]

# The 1797 glyphs come writer by writer, in blocks that can be told apart because each opens with 0..9 three
# times; they start at 0, 130, 256, ..., 1029, 1157, 1287, 1415, ... The block 1157-1286 is left out, so that
# a writer who filled two neighbouring blocks is still in one part only.
_SPLITS: dict[str, slice] = {"train": slice(0, 1157), "test": slice(1287, 1797)}


@cache
def handwritten_digits(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return the glyphs of one part of scikit-learn's digits, sorted by class.

    Args:
        split: ``"train"`` (1157 glyphs) or ``"test"`` (510 glyphs by other writers).

    Returns:
        Ink in [0, 1], float32 (M, 8, 8), and the positions where each class starts, int64 (11,): the glyphs
        of class ``c`` are ``ink[starts[c]:starts[c + 1]]``.

    Raises:
        OptionsError: ``split`` is neither ``"train"`` nor ``"test"``.
        MissingDependencyError: scikit-learn is not installed.
    """
    if split not in _SPLITS:
        raise OptionsError(f"split={split!r} is unknown; choose one of {', '.join(get_args(Split))}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError(
            'digit scenes need scikit-learn for its handwritten digits: pip install "agf-fx[data]"'
        ) from error
    digits = load_digits()
    ink, classes = digits.images[_SPLITS[split]], digits.target[_SPLITS[split]]
    by_class = np.argsort(classes, kind="stable")
    return (ink[by_class] / 16).astype(np.float32), np.searchsorted(classes[by_class], np.arange(11))
