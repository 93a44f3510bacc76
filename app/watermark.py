"""Who waits until a query sees an event: `POST /post?ack=stored`.

The drain writes the last entry that it has acknowledged into the partition's `progress`; an event whose entry
is not behind that is in the store, a duplicate, or a dead letter. While somebody waits, one task for each
partition looks there, with one question for all of them; while nobody does, nothing runs. Whose event was
erased on its way (`app.in_flight`) is told so: no query sees it.
"""

from __future__ import annotations

import asyncio
from typing import Literal, TypeAlias

import msgspec
import structlog
from redis.asyncio import Redis

from app import redis_client
from app.dead import DeadLetters
from app.in_flight import InFlight
from app.redis_client import UNREACHABLE
from app.settings import Settings
from app.store import StoreError
from app.stream import Keys

WAIT_SECONDS = 5.0
POLL_SECONDS = 0.02
MAX_WAITERS = 1000  # of one process; whoever comes then is told `queued` at once

EntryId: TypeAlias = tuple[int, int]

log = structlog.get_logger()


class Settled(msgspec.Struct, frozen=True):
    """What is known of an event when its client's wait ends. `reason` is that of a dead letter."""

    state: Literal["stored", "queued", "dead", "erased"]
    reason: str = ""


STORED, QUEUED, ERASED = Settled("stored"), Settled("queued"), Settled("erased")


class _Waiter:
    """One client's wait for one entry."""

    __slots__ = ("done", "entry", "project_id", "unique_req_id")

    def __init__(self, entry: EntryId, unique_req_id: str, project_id: str) -> None:
        self.entry = entry
        self.unique_req_id = unique_req_id
        self.project_id = project_id
        self.done: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()

    def settle(self, settled: Settled) -> None:
        """End the wait, if it lasts."""
        if not self.done.done():
            self.done.set_result(settled)


class Watermark:
    """The waits of one process."""

    def __init__(self, redis: Redis, settings: Settings, letters: DeadLetters, in_flight: InFlight) -> None:
        producer = settings.producer
        self._redis = redis
        self._letters = letters
        self._in_flight = in_flight
        self._keys = [Keys(producer.queue, partition) for partition in range(producer.shards)]
        self._waiters: list[set[_Waiter]] = [set() for _ in self._keys]
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def wait(self, partition: int, entry_id: str, unique_req_id: str, project_id: str) -> Settled:
        """What became of the event in that entry, or `queued` after WAIT_SECONDS.

        At once where `entry_id` is "": then the event is in a spool, or nobody knows where.
        """
        if not entry_id or sum(map(len, self._waiters)) >= MAX_WAITERS:
            return QUEUED
        waiter = _Waiter(_parse(entry_id), unique_req_id, project_id)
        self._waiters[partition].add(waiter)
        if partition not in self._tasks:
            self._tasks[partition] = asyncio.create_task(self._watch(partition))
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await waiter.done
        except TimeoutError:
            return QUEUED
        finally:  # also when the client has left
            self._waiters[partition].discard(waiter)

    async def close(self) -> None:
        """Whoever still waits is told `queued`."""
        for waiters in self._waiters:
            for waiter in waiters:
                waiter.settle(QUEUED)
        if self._tasks:
            await redis_client.stop_tasks(*self._tasks.values())

    async def _watch(self, partition: int) -> None:
        """Look for as long as somebody waits. An outage is waited out: each waiter has its own deadline."""
        waiters, keys = self._waiters[partition], self._keys[partition]
        try:
            while waiters:
                try:
                    acknowledged = await self._redis.hget(keys.progress, "acknowledged")
                    if acknowledged is not None:
                        reached = _parse(_text(acknowledged))
                        await self._tell(keys, [waiter for waiter in waiters if waiter.entry <= reached])
                except UNREACHABLE:
                    log.debug("the watermark cannot be read", partition=partition)
                await asyncio.sleep(POLL_SECONDS)
        finally:  # in the step that has found nobody: whoever comes next must not rely on this task
            del self._tasks[partition]

    async def _tell(self, keys: Keys, passed: list[_Waiter]) -> None:
        """Dead letters and watermark change in one script: what is not dead by now is stored, or erased."""
        if not passed:
            return
        places = await self._redis.hmget(keys.dead_ids, [waiter.unique_req_id for waiter in passed])
        erasing = await self._in_flight.erasing(min(waiter.entry for waiter in passed)[0])
        doubtful: dict[str, list[_Waiter]] = {}
        for waiter, place in zip(passed, places, strict=True):
            if place is not None:
                found = await self._letters.find(waiter.unique_req_id)
                waiter.settle(QUEUED if found is None else Settled("dead", found.letter.reason))
            elif waiter.project_id in erasing:
                doubtful.setdefault(waiter.project_id, []).append(waiter)
            else:
                waiter.settle(STORED)
        for project_id, waiters in doubtful.items():
            await self._tell_apart(project_id, waiters)

    async def _tell_apart(self, project_id: str, waiters: list[_Waiter]) -> None:
        try:
            erased = await self._in_flight.erased(project_id, {one.unique_req_id for one in waiters})
        except StoreError as error:  # not known, and not for ever: a receipt tells
            log.warning("it cannot be told what was erased on its way", error=error.brief)
            erased = None
        for waiter in waiters:
            settled = ERASED if erased and waiter.unique_req_id in erased else STORED
            waiter.settle(QUEUED if erased is None else settled)


def _parse(entry_id: str) -> EntryId:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
