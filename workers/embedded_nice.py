"""Questions leave the processor to inserts, and who asks much leaves it to who asks little.

Each question runs in a thread of its own, and the threads that the engine starts for it are as nice as that
one. Anybody may make a thread nicer, nobody without CAP_SYS_NICE less nice again: so all of them end with
their question, for the engine keeps none (`max_thread_pool_free_size`).

How nice is a matter of load: how many questions of a project run at once, on average of the last seconds, as
Linux tells it of a machine. Those of the project with the highest are the nicest, of others in proportion;
while few run at all, all are less. What runs becomes nicer with its project, or the first long question of
who asked nothing before would be a light one to its end. Next: `workers.embedded_engine`. Linux only.

SCHED_IDLE would be better still where the processors are nearly full, and was measured to be much worse where
they are full: what an idle thread holds (a lock, a place) it keeps; a light question waited for ten seconds.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import msgspec

from workers.embedded_library import EngineError

CROWD = 2  # of so many questions at once each has a processor's work: one thread is enough for each
MOST = 19  # eight such threads on a processor have a tenth of it while one that is not nice wants the rest
LOAD_SECONDS = 3.0  # after so long a load counts for a third of what it was
FULL_LOAD = 0.5  # of all projects together, from which on the highest of them is as nice as can be
FORGOTTEN = 0.00001  # so low a load is none: less than one question of a millisecond
_NO_THREAD = 439
_THREADS = "SELECT thread_ids FROM system.processes"
_TASKS = Path("/proc/self/task")

T = TypeVar("T")


class _Load(msgspec.Struct):
    """Of one project: its `average` at the monotonic time `at`, and how many have been `running` since."""

    average: float
    running: int
    at: float

    def now(self, now: float) -> float:
        kept = math.exp(-max(0.0, now - self.at) / LOAD_SECONDS)
        return self.average * kept + self.running * (1.0 - kept)


class Loads:
    """How many questions of each project run at once, on average of the last seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loads: dict[str, _Load] = {}

    def change(self, whose: str, by: int) -> None:
        """So many more questions of `whose` run from now on."""
        now = self._clock()
        load = self._loads.get(whose, _Load(0.0, 0, now))
        self._loads[whose] = _Load(load.now(now), load.running + by, now)
        # Otherwise whoever asked once would be kept for ever.
        self._loads = {
            name: one for name, one in self._loads.items() if one.running or one.now(now) > FORGOTTEN
        }

    def niceness(self) -> dict[str, int]:
        """How nice the questions of each project are to be, from 0 to MOST; of one that is missing 0."""
        now = self._clock()
        loads = {whose: load.now(now) for whose, load in self._loads.items()}
        highest = max(loads.values(), default=0.0)
        if not highest:
            return {}
        most = MOST * min(1.0, sum(loads.values()) / FULL_LOAD)
        return {whose: round(most * load / highest) for whose, load in loads.items()}


class _Question(msgspec.Struct):
    """One that runs."""

    whose: str
    niceness: int


class Niceness:
    """Runs questions, each as nice as it is to be. For any threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # never taken by who is nice: others wait for it
        self._loads = Loads()
        self._running: dict[int, _Question] = {}  # by the native id of the thread that it runs in

    @property
    def is_crowded(self) -> bool:
        """Does one more question want no more than one thread? More would only stand in others' way."""
        return len(self._running) >= CROWD

    def run(self, whose: str, work: Callable[[], T]) -> T:
        """Do `work`, a question of `whose`. Errors: its own; EngineError 439 when no thread can be had."""
        with self._lock:
            question = _Question(whose, self._loads.niceness().get(whose, 0))
        done: Future[T] = Future()
        thread = threading.Thread(target=_run, args=(question.niceness, work, done), daemon=True)
        try:
            thread.start()
        except RuntimeError:
            raise EngineError(_NO_THREAD, "No thread can be started. (CANNOT_SCHEDULE_TASK)") from None
        number = thread.native_id or 0
        with self._lock:
            self._running[number] = question
            self._loads.change(whose, 1)
        try:
            return done.result()
        finally:
            with self._lock:
                self._loads.change(whose, -1)
                self._running.pop(number, None)

    def keep(self, ask: Callable[[str], str]) -> None:
        """Make what runs as nice as its project is by now; `ask` runs SQL. Errors: those of `ask`."""
        with self._lock:
            wanted = self._loads.niceness()
            due = {
                thread: wanted.get(question.whose, 0)
                for thread, question in self._running.items()
                if wanted.get(question.whose, 0) > question.niceness
            }
        if not due:
            return
        for line in ask(_THREADS).splitlines():
            threads = {int(number) for number in re.findall(r"\d+", line)}
            for first in threads & due.keys():
                _make_nice(threads, due[first])
                with self._lock:
                    if first in self._running:
                        self._running[first].niceness = due[first]


def _run(niceness: int, work: Callable[[], T], done: Future[T]) -> None:
    _make_nice([threading.get_native_id()], niceness)
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)


def _make_nice(threads: Iterable[int], niceness: int) -> None:
    """Threads of this process, by their native ids, where they are less nice. Others are left alone."""
    if sys.platform != "linux":  # elsewhere it would be the whole process
        return
    for thread in threads:
        with contextlib.suppress(OSError):  # it has ended
            if (_TASKS / str(thread)).exists() and os.getpriority(os.PRIO_PROCESS, thread) < niceness:
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
