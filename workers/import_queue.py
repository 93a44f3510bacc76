"""An import's end of the queue: appends pieces under their ids, keeps the backlog short, waits outages out.

Live events wait behind whatever an import has put into their partition. So one gets the next piece only
while few events wait in it: enough that its drain never runs dry, few enough that live events stay fresh.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar, cast

import msgspec
from redis.asyncio import Redis

from app import layout, ledger, presence
from app.layout import Expected
from app.partition import Freshness
from app.pressure import reached_mark
from app.producer import NotTaken, Producer, Unanswered
from app.redis_client import UNREACHABLE
from app.settings import Settings
from app.stream import Keys, choose_partition, encode_request, join_group
from workers.import_pieces import Piece

QUEUED_BATCHES = 3  # of the drain: one is being inserted, one being built, one waits
APPEND_SECONDS = 10.0
RETRY_SECONDS = 0.2
LOOK_SECONDS = 0.02
TELL_SECONDS = 3.0
MARKS_SECONDS = 1.0  # between two looks at Redis's memory

T = TypeVar("T")


class Place(msgspec.Struct, frozen=True):
    """Under which id a piece is appended, and among how many partitions it is divided."""

    incarnation: str
    sequence: int
    shards: int


class GaveUp(Exception):
    """It cannot go on now; the message says why. Running it again goes on."""


class Stopped(Exception):
    """Somebody wants it to end."""


class ImportQueue:
    """The partitions, for one import. `say` is told why it waits; `patience_seconds` bounds each wait."""

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        expected: Expected,
        patience_seconds: float,
        *,
        stop: asyncio.Event,
        say: Callable[[str], None],
    ) -> None:
        producer = settings.producer
        self._redis = redis
        self._expected = expected
        self._stop = stop
        self._say = say
        self._patience_seconds = patience_seconds
        self._max_backlog = producer.max_backlog
        self._batch_size = settings.consumer.max_batch_size
        self._max_queued = self._batch_size * QUEUED_BATCHES
        self._producers: dict[int, Producer] = {}
        self._freshness = Freshness(redis, producer.queue, producer.shards)
        self._next_look = 0.0

    @property
    def shards(self) -> int:
        """How many partitions take events."""
        return self._expected.shards

    def _keys(self, partition: int) -> Keys:
        return Keys(self._expected.queue, partition)

    def _producer(self, partition: int) -> Producer:
        if partition not in self._producers:
            self._producers[partition] = Producer(
                self._redis.connection_pool, self._keys(partition), self._expected, is_import=True
            )
        return self._producers[partition]

    async def close(self) -> None:
        for producer in self._producers.values():
            await producer.close()

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of `call`, repeated until Redis gives one. Errors: GaveUp, Stopped."""
        end, was_told = time.monotonic() + self._patience_seconds, False
        while True:
            try:
                return await call()
            except (*UNREACHABLE, NotTaken, Unanswered) as error:
                reason = str(error) if isinstance(error, NotTaken | Unanswered) else "Redis does not answer"
                if self._expected.problem or time.monotonic() > end:
                    raise GaveUp(self._expected.problem or reason) from None
                if self._stop.is_set():
                    raise Stopped from None
                if not was_told:
                    self._say(f"{reason}; trying again for {self._patience_seconds:.0f} s")
                was_told = True
                await asyncio.sleep(RETRY_SECONDS)

    async def knows(self, incarnation: str) -> bool:
        """Did any partition there ever was get pieces of this import? Errors: GaveUp, Stopped."""
        recorded = await self.insist(lambda: layout.read(self._redis, self._expected.queue))
        for number in range(max(self.shards, recorded.most if recorded else 0)):
            name = self._keys(number).imports
            if await self.insist(partial(self._redis.hexists, name, incarnation)):
                return True
        return False

    async def append(self, piece: Piece, place: Place, project_id: str, customer_identifier: str) -> None:
        """Append the events of `piece` to their partitions, each once. Errors: GaveUp, Stopped."""
        recorded = time.time_ns() // 1_000_000
        identity = max(0, recorded).to_bytes(6, "big") + os.urandom(6)
        # Each attempt has to choose the same partitions, since each of them knows only what it got itself.
        name = f"{place.incarnation}/{place.sequence}"
        parts: dict[int, list[tuple[int, bytes, str]]] = {}
        for index, (_, body, event) in enumerate(piece.rows, 1):
            number = choose_partition(place.shards, project_id, event.event_id or "", name)
            parts.setdefault(number, []).append((index, body, ""))
        for number in parts:
            await self._wait_for_room(number)
        where = ledger.bucket(project_id, recorded)

        async def send(number: int, events: Sequence[tuple[int, bytes, str]]) -> None:
            request = encode_request(
                identity, recorded, project_id, customer_identifier, context=("", "", ""), events=events
            )
            counts = ledger.encode_counts({where: len(events)}).encode()
            group = (len(events), counts, join_group([request]))
            await self.insist(
                lambda: self._producer(number).append(
                    place.incarnation, place.sequence, [group], timeout_seconds=APPEND_SECONDS
                )
            )

        await asyncio.gather(*(send(number, events) for number, events in parts.items()))

    async def _wait_for_room(self, partition: int) -> None:
        """Until the partition's backlog is short and Redis has room. Errors: GaveUp when nothing moves."""

        async def is_open() -> tuple[str, int]:
            reason, fates = await self._pressure(), await self._fates(partition)
            queued = ledger.queued(fates)
            if not reason and queued >= self._max_queued:
                reason = f"waiting for the drain: {queued:,} events are queued"
            return reason, queued - fates.get(ledger.APPENDED, 0)

        await self._wait(is_open)

    async def wait_until_stored(self) -> None:
        """Until all that has been appended has its fate. Errors: GaveUp when nothing moves any more."""
        for number in sorted({*range(self.shards), *self._producers}):
            entries = self._keys(number).entries
            newest = cast(
                "list[tuple[bytes, object]]",
                await self.insist(partial(self._redis.xrevrange, entries, count=1)),
            )
            if not newest:
                continue
            wanted = _parse(newest[0][0])

            async def is_done(number: int = number, wanted: tuple[int, int] = wanted) -> tuple[str, int]:
                acknowledged = await self._redis.hget(self._keys(number).progress, "acknowledged")
                fates = await self._fates(number)
                queued = ledger.queued(fates)
                is_past = acknowledged is not None and _parse(cast(bytes, acknowledged)) >= wanted
                reason = "" if is_past else f"waiting for the drain: {queued:,} events are queued"
                return reason, queued - fates.get(ledger.APPENDED, 0)

            await self._wait(is_done)

    async def fates(self, project_id: str, hours: Sequence[int]) -> Counter[str]:
        """What became of a project's events that were recorded in these hours: fate -> number."""
        fields = [f"{project_id}|{hour}|{fate}" for hour in hours for fate in ledger.FINAL]
        found: Counter[str] = Counter()
        for partition in range(self.shards):
            counts = await self.insist(partial(self._redis.hmget, self._keys(partition).hours, fields))
            for field, number in zip(fields, cast("list[bytes | None]", counts), strict=True):
                found[field.rpartition("|")[2]] += int(number or 0)
        return found

    async def _wait(self, look: Callable[[], Awaitable[tuple[str, int]]]) -> None:
        """Until `look` gives no reason to wait; its number changes while the drain is at work."""
        began = moved = time.monotonic()
        was_told, last = False, 0
        while True:
            reason, progress = await self.insist(look)
            now = time.monotonic()
            if not reason:
                return
            if self._stop.is_set():
                raise Stopped
            if progress != last:
                last, moved = progress, now
            if now - moved > self._patience_seconds:
                raise GaveUp(f"{reason}, and nothing has moved for {self._patience_seconds:.0f} s")
            if not was_told and now - max(began, moved) > TELL_SECONDS:
                was_told = True
                self._say(reason)
            await asyncio.sleep(LOOK_SECONDS)

    async def _fates(self, partition: int) -> dict[str, int]:
        found = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys(partition).ledger))
        return {fate.decode(): int(number) for fate, number in found.items()}

    async def _pressure(self) -> str:
        """The high-water mark that Redis has reached, "" for none. Not asked for each piece."""
        if time.monotonic() < self._next_look:
            return ""
        drains = [
            one
            for one in await presence.listed(self._redis, self._expected.queue, "drain")
            if not one.dead_ms
        ]
        # Partitions that share a drain take turns: what waits in one waits behind the others' batches too.
        sharing = -(-self.shards // max(1, len(drains)))
        self._max_queued = max(self._batch_size, self._batch_size * QUEUED_BATCHES // sharing)
        reason = await reached_mark(self._freshness, self._max_backlog)
        if not reason:
            self._next_look = time.monotonic() + MARKS_SECONDS
        return reason


def _parse(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)
