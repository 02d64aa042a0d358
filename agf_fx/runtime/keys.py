"""Keys of the cache: digests of what a graph depends on, versions included, and never of weights."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import agf_fx
from agf_fx import passes
from agf_fx.frontend.identity import tensor_digest
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.rules.register import taught_operations

_LAYOUT = 1  # of what is stored


def digest(**parts: Any) -> str:
    """A key: hexadecimal SHA-256 of plain values and of the versions of all that makes a graph."""
    content = json.dumps([_environment(), parts], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def canonical_digest(canonical: CanonicalGraph) -> str:
    """What identifies an architecture: its canonical graph as text, and the values of its constants."""
    constants = {name: tensor_digest(value) for name, value in canonical.signature.constants.items()}
    return digest(canonical=str(canonical), constants=constants)


def checked(value: Any) -> str:
    """A key that was read from a file.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("a key that is none")
    return value


def _environment() -> Mapping[str, Any]:
    taught = {str(op): str(entry) for op, (entry, _, _) in taught_operations().items()}
    return {**_versions(), "registered": taught}


@functools.cache
def _versions() -> Mapping[str, Any]:
    return {
        "layout": _LAYOUT,
        "agf_fx": _source_digest(),
        "torch": torch.__version__,
        "torch_git": getattr(torch.version, "git_version", None),
        "torchvision": _installed("torchvision"),
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _source_digest() -> str:
    """A digest of agf-fx itself: a version number does not change with every edit of a checkout."""
    found = hashlib.sha256()
    for package in (agf_fx, passes):
        root = Path(package.__file__).parent
        for path in sorted(root.rglob("*.py")):
            found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
