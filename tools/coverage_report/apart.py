"""Work in a process of its own, whose failure, crash or delay is a result like any other."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_ROOT = Path(__file__).parent.parent.parent
_SPAWN = multiprocessing.get_context("spawn")  # a fork would inherit the threads of PyTorch


def apart(job: Callable[..., Row], *arguments: object, limit_s: float) -> Row:
    """What ``job(*arguments)`` returns, from a process that has ``limit_s`` seconds for it, and ``took_s``.

    Returns:
        The row; or a row with ``error``, a text, where the job raised, took too long or killed its process.
    """
    started = time.perf_counter()
    receiver, sender = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_work, args=(sender, job, arguments), daemon=True)
    process.start()
    sender.close()  # what the process holds is the last one, so that its end can be seen
    try:
        row = receiver.recv() if receiver.poll(limit_s) else {"error": f"took longer than {limit_s:.0f} s"}
    except EOFError:
        process.join()
        row = {"error": f"the process ended with exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()
    return row | {"took_s": time.perf_counter() - started}


def _work(sender: Connection, job: Callable[..., Row], arguments: tuple[object, ...]) -> None:
    try:
        row = job(*arguments)
    except Exception as error:
        row = {"error": f"{type(error).__name__}: {error}", "raised_at": _place(error)}
    sender.send(row)


def _place(error: Exception) -> str:
    """The innermost line of this project that an error passed: ``passes/heads.py:31``."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _ROOT in Path(frame.filename).parents and ".venv" not in frame.filename]
    return f"{Path(ours[-1].filename).relative_to(_ROOT)}:{ours[-1].lineno}"
