"""Compiled graphs kept in memory and on disk, by architecture: ``agf_fx.cache``.

A model whose architecture is known is traced, which takes a fraction of a second, and its weights are prepared; nothing
else is computed again. Entries on disk are data, never code, and signed with a key of the user's that lies beside them:
an entry that anybody else has written or changed is not used. What Inductor compiles is kept by Inductor in a folder of
the cache; since that is code, the folder is used only if nobody else can write into it.
"""

from __future__ import annotations

from agf_fx.store import upkeep
from agf_fx.store.counters import Counters, counting, process_counters
from agf_fx.store.disk import CacheWarning, Disk, folder
from agf_fx.store.memory import ARCHITECTURES, PROGRAMS
from agf_fx.store.upkeep import Usage

__all__ = ["CacheWarning", "Counters", "Usage", "clear", "counters", "counting", "folder", "forget", "info", "prune"]


def info() -> Usage:
    """What the cache on disk holds."""
    return upkeep.usage(Disk(folder()))


def clear() -> Usage:
    """Empty the cache on disk and in memory; returns what was on disk. Explainers keep what they have.

    Raises:
        OSError: a file cannot be removed.
    """
    forget()
    return upkeep.clear(Disk(folder()))


def forget() -> None:
    """Empty the cache in memory. Explainers keep what they have."""
    ARCHITECTURES.clear()
    PROGRAMS.clear()


def prune(*, max_bytes: int | None = None, older_than: float | None = None) -> int:
    """Remove from disk what has not been used for longest; returns the bytes removed.

    Args:
        max_bytes: how much may stay.
        older_than: seconds since its last use after which an entry goes.

    Raises:
        OSError: a file cannot be removed.
    """
    return upkeep.prune(Disk(folder()), max_bytes=max_bytes, older_than=older_than)


def counters() -> Counters:
    """How often each stage of the compiler has run in this process; `Explainer.counters` has those of one explainer."""
    return process_counters()
