"""Locks for threads that share explainers."""

from __future__ import annotations

import os
import threading


class Lock:
    """A reentrant lock that a forked process finds open, whoever held it in its parent."""

    def __init__(self) -> None:
        self._owner, self._lock = os.getpid(), threading.RLock()

    def __enter__(self) -> None:
        if self._owner != os.getpid():
            self._owner, self._lock = os.getpid(), threading.RLock()
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


# Held while anything is traced, lowered or compiled: tracing with torch.fx and torch.export, and graphs with symbolic
# sizes, change state of the whole process. Running a compiled graph needs no lock.
COMPILER = Lock()
