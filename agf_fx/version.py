"""The version of this package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "unknown"


def own_version() -> str:
    """The version that is installed, or `UNKNOWN` where the package is imported without being installed."""
    try:
        return version("agf-fx")
    except PackageNotFoundError:
        return UNKNOWN
