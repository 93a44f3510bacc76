"""Python's own work of many milliseconds, beside the loop that tracks events. A leaf.

A thread does not make Python faster: whoever has the interpreter keeps it for 5 ms, and the loop waits for
each of the threads that want it, before every step. So there are few; what else is to be rendered waits.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

THREADS = 2  # so that a small answer need not wait for the whole of a large one
P = ParamSpec("P")
T = TypeVar("T")

_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="aside")


async def aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work`. Errors: those of `work`."""
    return await asyncio.get_running_loop().run_in_executor(_pool, functools.partial(work, *args, **kwargs))
