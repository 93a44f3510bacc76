"""Threads for one kind of statement, with a bounded queue before them in which nobody pushes to the front.

Knows neither HTTP nor chDB. Next: `workers.embedded_engine`, which runs the statement.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from app.errors import ApiError
from app.turns import Turns
from workers.embedded_engine import Answer, Engine, Job
from workers.embedded_library import EngineError

_TOO_MANY = 202


class Lane:
    """At most `threads` statements at once, `of_one` of them with the same `quota_key`; more wait in turn, no
    more than `waiting` of them and each for `queue_seconds` at most. `kept`: of the `threads`, so many that
    only a `quota_key` with nothing under way may take."""

    def __init__(
        self, threads: int, waiting: int, queue_seconds: float, *, of_one: int | None = None, kept: int = 0
    ) -> None:
        self._pool = _start(threads)
        self._turns = Turns(threads, waiting, queue_seconds, "queries", (of_one or threads,), kept=(kept,))
        self._begun: set[str] = set()
        self._tasks: set[asyncio.Task[Answer]] = set()  # the loop itself keeps none alive

    def start(self, engine: Engine, job: Job) -> asyncio.Task[Answer]:
        """Run the admitted job when it is its turn. Errors, in the task: EngineError, 202 without a turn.

        Until it `has_begun` it may be cancelled, later only ended by the engine.
        """
        task = asyncio.create_task(self._run(engine, job))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def has_begun(self, job: Job) -> bool:
        """Is it a thread's by now?"""
        return job.query_id in self._begun

    async def _run(self, engine: Engine, job: Job) -> Answer:
        try:
            async with self._turns.turn(job.quota_key):
                self._begun.add(job.query_id)
                try:
                    return await asyncio.get_running_loop().run_in_executor(self._pool, engine.run, job)
                finally:
                    self._begun.discard(job.query_id)
        except ApiError:
            raise EngineError(
                _TOO_MANY, "Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES)"
            ) from None

    def _forget(self, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # was told to whoever waits; nobody may, and asyncio would log it


def _start(number: int) -> ThreadPoolExecutor:
    """So many threads, all of them now. Errors: RuntimeError.

    What a pool has no thread for is refused by it, and begun all the same when it has one again.
    """
    pool = ThreadPoolExecutor(number)
    together = threading.Barrier(number)
    for started in [pool.submit(together.wait) for _ in range(number)]:
        started.result()
    return pool
