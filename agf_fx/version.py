"""The version of this package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """The version that is installed, or ``"unknown"`` where the package is imported without being installed."""
    try:
        return version("agf-fx")
    except PackageNotFoundError:
        return "unknown"
