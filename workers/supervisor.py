"""Starts roles in order, keeps each of them running, stops them in the opposite order. Knows no role.

The first SIGINT, SIGTERM or SIGHUP stops in order; a second one ends everything at once (or, where the
caller pauses between the wish and the stop, the pause, and a third one everything). If the
supervisor itself is killed, the kernel ends its children (`workers.child`). What is started is decided by
`workers.dev` (everything) and `workers.edges` (edges only).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine
from types import TracebackType

import structlog

from workers.child import Child, Role

POLL_SECONDS = 0.02
START_SECONDS = 600.0  # a long append-only file takes this long to load
DEATHS_BEFORE_GIVING_UP = 3  # before the first readiness: afterwards a role is restarted for ever
SAY_WAITING_SECONDS = 10.0
SAME_SIGNAL_SECONDS = 0.5  # `make`, `timeout` and terminals deliver one wish several times
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

log = structlog.get_logger()


class StartFailed(Exception):
    """A role never became ready; the message names it and says how it ended."""


class Supervisor:
    """An async context: on leaving it, however that happens, no child is left."""

    def __init__(self) -> None:
        self.stop_requested = asyncio.Event()
        self._stages: dict[int, list[Child]] = {}
        self._asked_at = 0.0
        self._before_stop: list[Callable[[], None]] = []
        self._pausing: asyncio.Event | None = None

    async def __aenter__(self) -> Supervisor:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:  # nohup
                loop.add_signal_handler(number, self._ask_to_stop, number)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for call in self._before_stop:
            call()
        for _, stage in sorted(self._stages.items(), reverse=True):
            began = time.monotonic()
            await asyncio.gather(*(child.stop() for child in stage))
            if self.stop_requested.is_set() and not all(child.once for child in stage):
                names = dict.fromkeys(child.role.name for child in stage)
                log.info("stopped", role=", ".join(names), seconds=round(time.monotonic() - began, 2))

    def before_stop(self, call: Callable[[], None]) -> None:
        """Call this before the first child is stopped."""
        self._before_stop.append(call)

    async def pause(self, seconds: float) -> None:
        """Wait between the wish to stop and stopping; one more signal ends the wait, and nothing else."""
        self._pausing = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._pausing.wait()
        self._pausing = None

    def launch(self, stage: int, *roles: Role) -> list[Child]:
        """Start roles; returns at once. The highest stage is stopped first, all of a stage together.

        Errors: StartFailed when a program cannot be executed.
        """
        return [self._start(stage, Child(role)) for role in roles]

    async def wait_ready(self, *children: Child) -> None:
        """Until every child is ready, or a stop is asked for (then look at `stop_requested`).

        Errors: StartFailed after repeated deaths or `START_SECONDS`.
        """
        await asyncio.gather(*(self._wait_ready(child) for child in children))

    async def run_once(self, stage: int, role: Role) -> None:
        """Run a role to its end. Errors: StartFailed unless it exits with code 0 (or we are stopping)."""
        child = self._start(stage, Child(role, once=True))
        await self.unless_stopped(child.ended())
        if not self.stop_requested.is_set() and child.last_exit != "code 0":
            raise StartFailed(f"{role.name} failed ({child.last_exit}); its reason is in the log above")

    async def unless_stopped(self, work: Coroutine[None, None, None]) -> None:
        """Await `work`, but return at once, and cancel it, when a stop is asked for."""
        task, stop = asyncio.ensure_future(work), asyncio.create_task(self.stop_requested.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            task.cancel()
            stop.cancel()
            await asyncio.wait({task, stop})

    def _start(self, stage: int, child: Child) -> Child:
        self._stages.setdefault(stage, []).append(child)
        try:
            child.start()
        except OSError as error:
            raise StartFailed(f"{child.role.name} cannot be started: {error}") from error
        return child

    async def _wait_ready(self, child: Child) -> None:
        began = time.monotonic()
        say_at = began + SAY_WAITING_SECONDS
        while not self.stop_requested.is_set():
            if child.deaths >= DEATHS_BEFORE_GIVING_UP:
                raise StartFailed(f"{child.role.name} does not start ({child.last_exit}); see the log above")
            if child.pid is not None and (child.role.ready is None or await child.role.ready()):
                child.note_ready()
                log.info(
                    "ready", role=child.role.name, pid=child.pid, seconds=round(time.monotonic() - began, 2)
                )
                return
            now = time.monotonic()
            if now - began > START_SECONDS:
                raise StartFailed(f"{child.role.name} was not ready after {START_SECONDS:.0f} s")
            if now > say_at:
                log.info("still starting", role=child.role.name, seconds=round(now - began))
                say_at = now + SAY_WAITING_SECONDS
            await asyncio.sleep(POLL_SECONDS)

    def _children(self) -> list[Child]:
        return [child for stage in self._stages.values() for child in stage]

    def _reap(self) -> None:
        for child in self._children():
            child.reap()

    def _ask_to_stop(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if not self.stop_requested.is_set():
            self._asked_at = now
            log.info("stopping; again to end at once", signal=number.name)
            self.stop_requested.set()
        elif now - self._asked_at <= SAME_SIGNAL_SECONDS:
            return
        elif self._pausing is not None:
            self._asked_at = now
            log.info("not waiting any longer; again to end at once", signal=number.name)
            self._pausing.set()
        else:
            self._end_at_once(number)

    def _end_at_once(self, number: signal.Signals) -> None:
        """Crash-only: this loses nothing that was acknowledged, it only makes the next start longer."""
        for child in self._children():
            child.kill()
        for child in self._children():
            child.wait_dead(seconds=2)
        log.warning("ended at once", signal=number.name)
        os._exit(128 + number)
