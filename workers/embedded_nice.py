"""Queries leave the processor to inserts, also where nobody may lower a thread's niceness again.

The engine runs an insert in the thread that brought it, which is ours, and a query there and in threads of
its own pool. With CAP_SYS_NICE it gives and takes niceness query by query, as `os_thread_priority` says.
Without, as for most users, it does nothing; then the threads of that pool are made nice for good, which
everybody may do, and clients' questions come from threads that are. Those do nothing else: who is nice must
not have the interpreter, which others wait for. Inserts, merges and the HTTP interface keep their place.
Linux only.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NICE = 15
_POOL = ("ThreadPool", "Query")  # how the names of the pool's threads begin, idle and at work
_CAP_SYS_NICE = 1 << 23
_TASKS = Path("/proc/self/task")


def engine_may() -> bool:
    """Can the engine change niceness by itself?"""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & _CAP_SYS_NICE)
    return False


def threads(number: int) -> ThreadPoolExecutor:
    """Threads that are nice for good."""
    return ThreadPoolExecutor(number, thread_name_prefix="nice", initializer=_make_nice)


def _make_nice() -> None:
    with contextlib.suppress(OSError):  # where threads have no number of their own, none is nice
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def make_pool_nice() -> None:
    """Every thread of the engine's pool that has come since the last time."""
    with contextlib.suppress(OSError):
        for task in _TASKS.iterdir():
            with contextlib.suppress(OSError):  # threads end
                if not (task / "comm").read_text().startswith(_POOL):
                    continue
                if os.getpriority(os.PRIO_PROCESS, int(task.name)) < NICE:
                    os.setpriority(os.PRIO_PROCESS, int(task.name), NICE)
