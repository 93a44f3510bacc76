"""The ledger as others see it: the numbers of one moment, the moves that follow an erasure, the folding.

`read` takes the counts and the stream of a partition in one transaction, so that they belong together. The
partitions are not read at one moment, and need not be: no number of one depends on another's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TypeVar, cast

import msgspec
from redis.asyncio import Redis

from app import ledger, ledger_scripts, queues
from app.ledger import Buckets, Fates
from app.settings import Settings
from app.stream import Keys

MAX_PARTITIONS = 256  # as `shards` in deploy.toml
FIELDS_A_SCRIPT = 500

T = TypeVar("T")


class Snapshot(msgspec.Struct, frozen=True):
    """One partition at one moment.

    `queued`: what the entries in the stream count; None when there are too many to count at once.
    `kept_from_hour`: buckets of earlier hours may be folded already.
    """

    partition: int
    totals: Fates
    buckets: Buckets
    queued: dict[str, int] | None
    entries: int
    kept_from_hour: int


class LedgerReader:
    """Reads and moves. Methods raise redis_client.UNREACHABLE when Redis is."""

    def __init__(self, redis: Redis, queue: str, shards: int, dead_letter_queue: str) -> None:
        self._redis = redis
        self._shards = shards
        self._keys = [Keys(queue, partition, dead_letter_queue) for partition in range(MAX_PARTITIONS)]

    async def partitions(self) -> list[tuple[int, Keys]]:
        """Every partition that has a ledger: those in use, and former ones, whose events are still stored."""
        pipeline = self._redis.pipeline(transaction=False)
        for keys in self._keys:
            pipeline.exists(keys.ledger)
        found = await pipeline.execute()
        return [
            (partition, keys)
            for partition, keys in enumerate(self._keys)
            if partition < self._shards or found[partition]
        ]

    async def everywhere(self) -> list[Keys]:
        """Of every partition, and of what lies under names that are not ours: of other queues, and dead
        letters. An erasure means events wherever they are in this Redis."""
        own = [keys for _, keys in await self.partitions()]
        known = {keys.dead for keys in own}
        found = [keys for place in (await queues.find(self._redis)).places for keys in place.keys]
        return own + [keys for keys in found if keys.dead not in known]

    async def movers(self) -> list[LedgerMover]:
        """The writing end of every partition."""
        return [LedgerMover(self._redis, keys) for _, keys in await self.partitions()]

    async def movers_by_partition(self) -> dict[int, LedgerMover]:
        """The same by the number of the partition."""
        return {partition: LedgerMover(self._redis, keys) for partition, keys in await self.partitions()}

    async def read(self) -> list[Snapshot]:
        """Every partition's numbers."""
        return [await self._read(partition, keys) for partition, keys in await self.partitions()]

    async def of_project(self, project_id: str, hours: range) -> tuple[dict[int, Fates], int]:
        """Hour -> what met which fate, of one project, summed over all partitions; and the first hour before
        which hours may be folded already. Only what is asked for is read, whatever else there is."""
        names = [(hour, fate) for hour in hours for fate in ledger.FATES]
        buckets = {hour: ledger.bucket(project_id, hour * ledger.HOUR_MS) for hour in hours}
        fields = [ledger.field(buckets[hour], fate) for hour, fate in names]
        sums: dict[int, Fates] = {}
        kept_from_hour = 0
        for _, keys in await self.partitions() if names else []:
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hmget(keys.hours, fields)
            pipeline.hget(keys.progress, "kept_from_hour")
            counts, kept = await pipeline.execute()
            kept_from_hour = max(kept_from_hour, int(kept or 0))
            for (hour, fate), count in zip(names, counts, strict=True):
                if count is not None:
                    fates = sums.setdefault(hour, {})
                    fates[fate] = fates.get(fate, 0) + int(count)
        return sums, kept_from_hour

    async def _read(self, partition: int, keys: Keys) -> Snapshot:
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hgetall(keys.ledger)
        pipeline.hgetall(keys.hours)
        pipeline.eval(ledger_scripts.QUEUE_COUNTS, 1, keys.entries)
        pipeline.xlen(keys.entries)
        pipeline.hget(keys.progress, "kept_from_hour")
        totals, hours, queue, entries, kept = await pipeline.execute()
        buckets: Buckets = {}
        for name, number in cast("dict[bytes, bytes]", hours).items():
            where, _, fate = name.decode().rpartition("|")
            buckets.setdefault(where, {})[fate] = int(number)
        is_whole, *pairs = cast("list[int | bytes]", queue)
        queued = {
            cast(bytes, where).decode(): int(number)
            for where, number in zip(pairs[::2], pairs[1::2], strict=True)
        }
        return Snapshot(
            partition,
            {fate.decode(): int(number) for fate, number in cast("dict[bytes, bytes]", totals).items()},
            buckets,
            queued if is_whole else None,
            int(entries),
            int(kept or 0),
        )


def of(redis: Redis, settings: Settings) -> LedgerReader:
    """The ledger of the service that `settings` describe."""
    producer = settings.producer
    return LedgerReader(redis, producer.queue, producer.shards, settings.consumer.dead_letter_queue)


class LedgerMover:
    """The writing end for one partition: the drains' alone."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._move = redis.register_script(ledger_scripts.MOVE)
        self._move_some = redis.register_script(ledger_scripts.MOVE_SOME)
        self._fold = redis.register_script(ledger_scripts.FOLD)
        self._split = redis.register_script(ledger_scripts.SPLIT)

    async def projects(self) -> set[str]:
        """The projects that have stored events."""
        found = set()
        async for where, fate, number in self._fields(f"*|{ledger.STORED}"):
            if fate == ledger.STORED and number:
                found.add(ledger.split_bucket(where)[0])
        return found

    async def stored(self, project_id: str) -> dict[str, int]:
        """Bucket -> stored events of one project."""
        found = {}
        async for where, fate, number in self._fields(f"{_escape(project_id)}|*|{ledger.STORED}"):
            if fate == ledger.STORED and where.rpartition("|")[0] == project_id and number:
                found[where] = number
        return found

    async def move(self, seen: Mapping[str, int], to: str) -> int:
        """Stored events that have left the store met fate `to`; how many.

        `seen`: bucket -> stored events, read before the rows were deleted. What changed since stays.
        """
        moved = 0
        for some in _chunks(list(seen.items())):
            moved += int(
                await self._move(
                    keys=[self._keys.ledger, self._keys.hours],
                    args=[ledger.STORED, to, *(part for pair in some for part in pair)],
                )
            )
        return moved

    async def move_some(self, round_number: int, moves: Mapping[str, int], to: str) -> int:
        """So many stored events of each bucket met fate `to`; how many, -1 if this round was here before."""
        keys = [self._keys.ledger, self._keys.hours, self._keys.progress]
        parts: list[str | int] = []
        for where, number in moves.items():
            parts += [*ledger.places(where), number]
        return int(await self._move_some(keys=keys, args=[round_number, ledger.STORED, to, *parts]))

    async def all_stored(self) -> dict[str, int]:
        """Bucket -> stored events of every project."""
        fields = [(where, number) async for where, _, number in self._fields(f"*|{ledger.STORED}")]
        return {where: number for where, number in fields if number}

    async def split(self, project_id: str, seen: int, months: Mapping[str, int]) -> bool:
        """Of `seen` stored events without a month some go into these month buckets; False when there are
        not as many any more."""
        parts = [part for pair in months.items() for part in pair]
        return bool(
            await self._split(
                keys=[self._keys.hours], args=[ledger.STORED, ledger.folded(project_id), seen, *parts]
            )
        )

    async def fold(self, kept_from_hour: int, *, by_month: bool = False) -> int:
        """Fold the buckets of earlier hours into their project's `before`; how many fields.

        `by_month`: stored events into months. What was folded otherwise before is folded anew.
        """
        old: list[tuple[str, str, str]] = []
        async for where, fate, _ in self._fields("*"):
            project_id, hour = ledger.split_bucket(where)
            larger = ledger.folded(project_id)
            if by_month and fate == ledger.STORED:
                larger = where if hour is None else ledger.of_month(project_id, hour)
            if larger != where and (hour is None or hour < kept_from_hour):
                old.append((where, larger, fate))
        folded = 0
        for some in _chunks(old):
            folded += int(
                await self._fold(
                    keys=[self._keys.hours, self._keys.progress],
                    args=[kept_from_hour, *(part for triple in some for part in triple)],
                )
            )
        return folded

    async def _fields(self, pattern: str) -> AsyncIterator[tuple[str, str, int]]:
        """Bucket, fate and number of matching fields, without blocking Redis; one may come twice."""
        async for name, number in self._redis.hscan_iter(self._keys.hours, match=pattern, count=1000):
            where, _, fate = name.decode().rpartition("|")
            yield where, fate, int(number)


def _escape(text: str) -> str:
    """For a glob pattern of Redis."""
    return "".join(f"\\{character}" if character in "*?[]\\^" else character for character in text)


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), FIELDS_A_SCRIPT):
        yield items[start : start + FIELDS_A_SCRIPT]
