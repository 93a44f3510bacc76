"""What the tests of the exactly-once path share: settings, records, a partition's counts, faults.

Nothing here is a double of Redis or of the store: faults are put in front of the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec
from redis.asyncio import Redis

from app import dead_letter, redis_client
from app import ledger as ledgers
from app.dead_letter import DeadLetter
from app.enrich import Geography
from app.ledger_reader import LedgerReader
from app.partition import Partition
from app.settings import Settings, load
from app.store import Store
from app.stream import Keys, Record, encode_record, join_group, split_group
from app.stream_scripts import APPEND
from tests.store_fixture import StoreServer
from tests.store_tables import make_tables_for
from workers.drain import PartitionDrain
from workers.erase import ProjectEraser
from workers.erase_letters import Letters
from workers.eraser import Eraser
from workers.marks import Marks
from workers.tombstones import Tombstones

LEASE_MS = 5000
EVENT = b'{"event_name":"test","value":1}'
# The engine's JSON column refuses a path that stands twice; no edge of ours lets it through.
POISON = b'{"event_name":"test","value":1,"value":2}'

_sequence = itertools.count(1)


def make_settings(
    directory: Path,
    redis_url: str,
    server: StoreServer | None = None,
    database: str = "",
    *,
    limits: Mapping[str, float] | None = None,
    consumer: Mapping[str, float] | None = None,
    spool: Mapping[str, float] | None = None,
    insert_timeout: float = 30.0,
) -> Settings:
    """The settings of an empty deploy.toml for this Redis and store, with some values replaced."""
    path = directory / "deploy.toml"
    path.write_text("")
    environ = {"REDIS_URL": redis_url}
    if server is not None:
        environ |= {"CLICKHOUSE_URL": server.url, "CLICKHOUSE_PASSWORD": server.token}
    settings = load(path, environ=environ)
    store = msgspec.structs.replace(settings.store, insert_timeout=insert_timeout)
    if database:
        store = msgspec.structs.replace(store, database=database)
    replace = msgspec.structs.replace
    return replace(
        settings,
        limits=replace(settings.limits, **dict(limits or {})),
        consumer=replace(settings.consumer, **dict(consumer or {})),
        spool=replace(settings.spool, **dict(spool or {})),
        store=store,
    )


def record(body: bytes = EVENT, *, recorded: int = 0) -> Record:
    """One event with an id of its own."""
    moment = recorded or time.time_ns() // 1_000_000
    return Record(os.urandom(12), 1, moment, "prj_test", "", "", "", "", body)


def make_keys(settings: Settings) -> Keys:
    return Keys(settings.producer.queue, 0, settings.consumer.dead_letter_queue)


async def put(redis: Redis, keys: Keys, records: Sequence[Record]) -> str:
    """One entry with `records`, by the edge's own script; its id."""
    payload = join_group([encode_record(r) for r in records])
    return await put_payload(
        redis, keys, payload, ledgers.encode_counts(ledgers.count(records)), len(records)
    )


async def put_payload(redis: Redis, keys: Keys, payload: bytes, counts: str, number: int) -> str:
    """One entry of any bytes, which the ledger counts as `number` events; its id."""
    names = (keys.entries, keys.producers, keys.producers_order, keys.ledger, keys.hours)
    done = redis.eval(APPEND, 5, *names, "test", str(next(_sequence)), str(number), counts, payload)
    entry = cast("bytes", await done)
    assert entry
    return entry.decode()


async def entries(redis: Redis, stream: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Every entry; redis-py types its answers as everything they could be."""
    return cast("list[tuple[bytes, dict[bytes, bytes]]]", await redis.xrange(stream))


async def queued(redis: Redis, keys: Keys) -> list[Record]:
    """Every record in the stream."""
    rows = await entries(redis, keys.entries)
    return [one for _, fields in rows for one in split_group(fields[b"r"])]


async def ledger(redis: Redis, keys: Keys) -> dict[str, int]:
    """The counts of the ledger."""
    counts = cast("dict[bytes, bytes]", await redis.hgetall(keys.ledger))
    return {name.decode(): int(count) for name, count in counts.items()}


async def dead_letters(redis: Redis, keys: Keys) -> list[DeadLetter]:
    return [dead_letter.decode(fields[b"d"]) for _, fields in await entries(redis, keys.dead)]


async def assert_conserved(redis: Redis, keys: Keys) -> None:
    """No silent fate: appended = queued + all final fates, in total and in each project and hour."""
    counts = await ledger(redis, keys)
    waiting = ledgers.count(await queued(redis, keys))
    assert counts["appended"] == sum(counts.get(fate, 0) for fate in ledgers.FINAL) + waiting.total(), counts
    hours = cast("dict[bytes, bytes]", await redis.hgetall(keys.hours))
    by_field = {name.decode(): int(count) for name, count in hours.items()}
    for where in {name.rpartition("|")[0] for name in by_field}:
        known = sum(by_field.get(ledgers.field(where, fate), 0) for fate in ledgers.FINAL)
        assert by_field[ledgers.field(where, ledgers.APPENDED)] == known + waiting[where], by_field


Fault = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


class FaultyStore(Store):
    """The real store; `faults` are called in turn in place of the inserts, each with the real one in hand."""

    def __init__(self, settings: Settings, faults: Sequence[Fault] = ()) -> None:
        super().__init__(
            settings.clickhouse_url,
            database=settings.store.database,
            username=settings.store.username,
            password=settings.secret("CLICKHOUSE_PASSWORD"),
        )
        self.faults = list(faults)
        self.inserts = 0
        self.began: list[float] = []
        self.blocks: list[int] = []
        self.tokens: list[str] = []

    async def insert(
        self,
        statement: str,
        block: bytes,
        *,
        token: str,
        query_id: str,
        settings: Mapping[str, str | int | float],
        timeout_seconds: float,
    ) -> None:
        self.inserts += 1
        self.began.append(time.monotonic())
        self.blocks.append(len(block))
        self.tokens.append(token)

        async def real() -> None:
            await super(FaultyStore, self).insert(
                statement,
                block,
                token=token,
                query_id=query_id,
                settings=settings,
                timeout_seconds=timeout_seconds,
            )

        await (self.faults.pop(0)(real) if self.faults else real())

    async def stored(self) -> tuple[int, int]:
        """Rows, and distinct ids among them."""
        result = await self.ask("SELECT count(), uniqExact(unique_req_id) FROM events")
        return int(str(result.rows[0][0])), int(str(result.rows[0][1]))


def make_project_eraser(redis: Redis, store: Store, reader: LedgerReader) -> ProjectEraser:
    """As a drain process has one."""
    letters = Letters(redis, store, reader, Tombstones(redis, Geography("")))
    return ProjectEraser(redis, store, reader, letters, Marks(redis, reader))


class Bench:
    """One partition with its Redis client and its store, for one test."""

    def __init__(
        self, settings: Settings, redis: Redis, store: FaultyStore, version: tuple[int, int]
    ) -> None:
        self.settings = settings
        self.redis = redis
        self.store = store
        self.version = version
        self.keys = make_keys(settings)

    def partition(self, slot: str = "a") -> Partition:
        limit = self.settings.consumer.max_dead_letters
        return Partition(self.redis, self.keys, slot, self.version, max_dead_letters=limit)

    def drain(
        self, slot: str = "a", *, stop: asyncio.Event | None = None, store: Store | None = None
    ) -> PartitionDrain:
        geography = Geography("")
        return PartitionDrain(
            *(self.partition(slot), store or self.store, geography, self.settings, stop or asyncio.Event()),
            tombstones=Tombstones(self.redis, geography),
        )

    async def put(self, records: Sequence[Record]) -> str:
        return await put(self.redis, self.keys, records)

    @contextlib.asynccontextmanager
    async def draining(
        self, slot: str = "a", *, store: Store | None = None
    ) -> AsyncIterator[asyncio.Task[None]]:
        """A drain that runs beside the test and is killed (cancelled) at its end."""
        task = asyncio.create_task(self.drain(slot, store=store).run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def is_empty(self) -> bool:
        """Nothing waits and no plan stands."""
        return not await self.redis.xlen(self.keys.entries) and not await self.redis.exists(self.keys.plan)


def make_eraser(made: Bench, store: Store | None = None) -> Eraser:
    """One that never waits."""
    queue, dead = made.settings.producer.queue, made.settings.consumer.dead_letter_queue
    return Eraser(
        *(made.redis, store or made.store, LedgerReader(made.redis, queue, 1, dead)),
        Tombstones(made.redis, Geography("")),
        queue=queue, owner=os.urandom(4).hex(), margin_ms=0, round_seconds=0, proof_seconds=0,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def bench(settings: Settings, faults: Sequence[Fault] = ()) -> AsyncIterator[Bench]:
    """Clients for `settings`, and the tables of the store."""
    redis = redis_client.connect(settings)
    store = FaultyStore(settings, faults)
    try:
        await make_tables_for(settings)
        yield Bench(settings, redis, store, await redis_client.wait_for_version(redis, asyncio.Event()))
    finally:
        await store.close()
        await redis.aclose()
