"""Questions leave the processor to inserts, and those that last leave it to those that have just begun.

A question runs in a thread of its own, made for it and gone after it, and in threads of the engine's pool,
which inherit niceness from whoever has them made and end with their work too (`max_thread_pool_free_size`).
So none comes to another statement as nice as a question left it, which nobody but who has CAP_SYS_NICE could
undo. Inserts, merges and the HTTP interface keep their place. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

NICE = 15
NICEST = 19  # less than half of the processor that NICE is given
LOOK_SECONDS = 0.1  # who is nice at two looks is made the nicest
_CAP_SYS_NICE = 1 << 23
_TASKS = Path("/proc/self/task")
P = ParamSpec("P")
T = TypeVar("T")


def nice(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work`, from a thread that is nice. Errors: those of `work`."""
    with ThreadPoolExecutor(1, thread_name_prefix="nice", initializer=_make_nice) as thread:
        return thread.submit(work, *args, **kwargs).result()


def _make_nice() -> None:
    with contextlib.suppress(OSError):  # where threads have no number of their own, none is nice
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class Ageing:
    """Makes the threads of questions that last the nicest.

    Those that brought them take the interpreter in the end, for which others wait: they stay as they are,
    unless the engine, which may, gives them their place back before that.
    """

    def __init__(self) -> None:
        self._engine_may = engine_may()
        self._young: set[int] = set()

    def look(self) -> None:
        """Once in LOOK_SECONDS."""
        young = set()
        with contextlib.suppress(OSError):
            for task in {int(name) for name in os.listdir(_TASKS)} - self._spared():
                with contextlib.suppress(OSError):  # threads end
                    if not NICE <= os.getpriority(os.PRIO_PROCESS, task) < NICEST:
                        continue
                    young.add(task)
                    if task in self._young:
                        os.setpriority(os.PRIO_PROCESS, task, NICEST)
        self._young = young

    def _spared(self) -> set[int | None]:
        return set() if self._engine_may else {thread.native_id for thread in threading.enumerate()}


def engine_may() -> bool:
    """Can the engine change niceness by itself, as `os_thread_priority` says?"""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & _CAP_SYS_NICE)
    return False
