"""Python's own work of many milliseconds, beside the loop that tracks events. Of one process.

A thread does not make Python faster: whoever has the interpreter keeps it for 5 ms, and the loop waits for
each of the threads that want it, before every step. So there are few, of which a project has one at a time;
what else is to be rendered waits, and no project's for more than one piece of another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from app.turns import Turns

THREADS, OF_A_PROJECT = 2, 1
MAX_WAITING, WAITING_SECONDS = 256, 10.0
P = ParamSpec("P")
T = TypeVar("T")

_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="aside")
_turns = Turns(THREADS, MAX_WAITING, WAITING_SECONDS, "answers are being written", (OF_A_PROJECT,))


async def aside(project_id: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work` for a project. Errors: those of `work`; ApiError 503 without a turn in time."""
    leave = await _turns.take(project_id)
    loop = asyncio.get_running_loop()
    future = _pool.submit(functools.partial(work, *args, **kwargs))

    def give_back(_: Future[T]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is the process, in a moment
            loop.call_soon_threadsafe(leave)

    # Not when nobody waits any more, but when the thread is free: it cannot be interrupted.
    future.add_done_callback(give_back)
    return await asyncio.wrap_future(future)
