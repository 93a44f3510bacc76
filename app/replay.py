"""Spool -> stream: in order, under the group ids of the first attempt, so that nothing is doubled.

One task for each edge process. It opens the process's own spool, sends what waits there as soon as Redis
takes it, and adopts the spools of processes that are gone from the same disk. A crash at any line only
repeats groups that Redis then knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import structlog

from app import metrics, spool_slot
from app.pressure import Pressure
from app.producer import NotTaken, Producer, Unanswered
from app.spool import Spool
from app.spool_format import Frame

SEND_SECONDS = 5.0  # one bunch, fsync included; sent again after that
LOOK_SECONDS = 0.05  # while something waits
IDLE_SECONDS = 0.25
ADOPT_SECONDS = 2.0
REOPEN_SECONDS = 2.0
CLOSE_SECONDS = 5.0

log = structlog.get_logger()


class Replayer:
    """Empties `spool`, which lies in `directory`, and what others left there."""

    def __init__(
        self, spool: Spool, directory: Path, connect: Callable[[int], Producer], pressure: Pressure
    ) -> None:
        """`connect`: a producer for a partition, also for one that this edge no longer appends to."""
        self._spool = spool
        self._directory = directory
        self._connect = connect
        self._pressure = pressure
        self._producers: dict[int, Producer] = {}
        self._adopt_at = 0.0
        self._left_by_others = 1  # at least, as long as nobody has looked

    def refusal(self) -> str:
        """Why an event could not be kept now, "" while it could: for `/readyz`."""
        if not self._spool.problem and self._spool.has_room():
            return ""
        redis = self._pressure.refusal()
        if not redis and not self._spool.groups:
            return ""
        return f"{redis or 'events wait in the spool'}; {self._spool.problem or 'the spool is full'}"

    def waiting(self) -> int:
        """Groups on this disk that Redis lacks: in this spool, and in those of processes that are gone."""
        return self._spool.groups + self._left_by_others

    async def open(self) -> bool:
        """Open the spool. False when the disk does not allow it: then events go to Redis alone for now."""
        try:
            await self._spool.open()
        except OSError as error:
            self._say(error)
            return False
        self._spool.problem = ""
        if self._spool.groups:
            log.info("a former life left groups in the spool", groups=self._spool.groups)
        return True

    def problem(self) -> str:
        """What is not as it should be with the spool, "" while it is empty and sound: for `/readyz`."""
        waiting = f"{self._spool.groups} groups wait for Redis" if self._spool.groups else ""
        return self._spool.problem or waiting

    def describe(self) -> str:
        """How it stands, while nothing is wrong."""
        return "empty"

    async def run(self) -> None:
        """For ever; whatever fails is tried again."""
        while True:
            pause = REOPEN_SECONDS
            try:
                is_open = self._spool.is_open or await self.open()
                await self._work()  # in any case: what waits may be what fills the disk
                if is_open:
                    pause = LOOK_SECONDS if self._spool.groups else IDLE_SECONDS
            except OSError as error:
                self._say(error)
            except Exception:
                log.exception("replaying failed")
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Disconnect, and close the spool; what waits in it stays there."""
        for producer in self._producers.values():
            await producer.close()
        await self._spool.close(CLOSE_SECONDS)

    async def _work(self) -> None:
        await self._spool.look_after()
        await self._empty(self._spool)
        if time.monotonic() >= self._adopt_at:
            self._adopt_at = time.monotonic() + ADOPT_SECONDS
            await self._adopt()
        metrics.SPOOL_GROUPS.set(self._spool.groups)
        metrics.SPOOL_BYTES.set(self._spool.size_bytes)

    def _say(self, error: OSError) -> None:
        problem = f"the spool cannot be used: {error.strerror or error}"
        if problem != self._spool.problem:  # else each look would say it again
            log.error("the spool cannot be used", directory=str(self._directory), error=str(error))
        self._spool.problem = problem

    async def _empty(self, spool: Spool) -> bool:
        """Replay until nothing waits (True), or until Redis takes no more for now. Errors: OSError."""
        while spool.groups:
            if self._pressure.reason:
                return False
            frames = await spool.peek()
            if not frames:
                return False  # what is counted is on its way to the disk
            for run in _runs(frames):
                if not await self._send(run):
                    return False
            await spool.done()
            metrics.REPLAYED_EVENTS.inc(sum(frame.records for frame in frames))
        return True

    async def _adopt(self) -> None:
        slot = spool_slot.adopt(self._directory)
        if slot is None:
            self._left_by_others = 0
            return
        self._left_by_others = 1
        if self._pressure.refusal():  # it waits, and is told of
            slot.release()
            return
        spool = Spool(lambda: slot, 0, is_adopted=True)
        try:
            await spool.open()
            log.info("adopted a spool that nobody owns", path=str(slot.path), groups=spool.groups)
            if not await self._empty(spool):
                log.info("the adopted spool waits for Redis", path=str(slot.path), groups=spool.groups)
                self._left_by_others = max(1, spool.groups)
        finally:
            await spool.close(CLOSE_SECONDS)

    async def _send(self, run: list[Frame]) -> bool:
        first = run[0]
        producer = self._producers.get(first.partition)
        if producer is None:
            producer = self._producers[first.partition] = self._connect(first.partition)
        groups = [(frame.records, frame.counts, frame.payload) for frame in run]
        try:
            await producer.append(first.incarnation, first.sequence, groups, timeout_seconds=SEND_SECONDS)
        except (NotTaken, Unanswered):
            return False  # it stays at the head of the spool
        return True


def _runs(frames: list[Frame]) -> Iterator[list[Frame]]:
    """Frames that one append can take: of one partition and incarnation, with consecutive sequences.

    The order of each partition is kept; that between partitions means nothing.
    """
    for _, some in groupby(sorted(frames, key=lambda frame: frame.partition), lambda frame: frame.partition):
        run: list[Frame] = []
        for frame in some:
            if run and (frame.incarnation, frame.sequence) != (run[-1].incarnation, run[-1].sequence + 1):
                yield run
                run = []
            run.append(frame)
        yield run
