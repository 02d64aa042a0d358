"""Warnings that point at the user's line, however deep in agf-fx they arise."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from pathlib import Path

_HERE = Path(__file__).parent
_OURS = (f"{_HERE}{os.sep}", f"{_HERE.parent / 'passes'}{os.sep}", contextlib.__file__)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn as if the line had done so that called agf-fx."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level + 1)
