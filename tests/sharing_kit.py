"""Several drain processes on one queue of several partitions, as the tests of sharing need them.

Each is everything that `eventbunker drain` runs but its own process: it is killed by cancelling it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from app import redis_client
from app import store as store_client
from app.partition import survey
from app.settings import Settings
from app.store import Store
from app.stream import Keys
from tests.pipeline_kit import make_settings
from tests.store_fixture import ROOT, StoreServer
from tests.store_tables import make_tables_for
from workers import drain_process


class Queue:
    """A queue of several partitions, and the drains that a test started on it."""

    def __init__(
        self, settings: Settings, redis: Redis, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.settings = settings
        self._store = store
        self.redis = redis
        self._monkeypatch = monkeypatch
        self._stops: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, slot: str, *, shards: int = 0) -> None:
        """A drain process in `slot`; it has joined, or refused to, when this returns."""
        settings = self.settings
        if shards:
            settings = msgspec.structs.replace(
                settings, producer=msgspec.structs.replace(settings.producer, shards=shards)
            )
        stop = self._stops[slot] = asyncio.Event()
        self._monkeypatch.setenv("DRAIN_SLOT", slot)
        self.tasks[slot] = asyncio.create_task(drain_process.serve(settings, stop))
        await asyncio.sleep(0)  # it reads its slot before it waits for anything

    async def stop(self, slot: str) -> None:
        """SIGTERM, and its end."""
        self._stops[slot].set()
        await asyncio.wait_for(self.tasks.pop(slot), 10)

    async def kill(self, slot: str) -> None:
        """kill -9: nothing is released and nobody is told."""
        task = self.tasks.pop(slot)
        while not task.done():  # redis-py may swallow a cancellation while it connects
            task.cancel()
            await asyncio.wait({task}, timeout=3)

    @property
    def partitions(self) -> list[Keys]:
        producer, consumer = self.settings.producer, self.settings.consumer
        numbers = range(producer.shards)
        return [Keys(producer.queue, number, consumer.dead_letter_queue) for number in numbers]

    async def owners(self) -> list[str]:
        """The slot that owns each partition, "" where nobody does."""
        return [one.owner.rpartition("/")[0] for one in await survey(self.redis, self.partitions)]

    async def held(self) -> dict[str, int]:
        """Slot -> number of its partitions."""
        owners = await self.owners()
        return {slot: owners.count(slot) for slot in sorted(set(owners))}

    async def rows(self) -> tuple[int, int]:
        """Rows in the store, and distinct ids among them."""
        result = await self._store.ask("SELECT count(), uniqExact(unique_req_id) FROM events")
        return int(str(result.rows[0][0])), int(str(result.rows[0][1]))

    async def epochs(self) -> list[int]:
        """How often each partition has changed hands."""
        return [int(await self.redis.get(keys.epoch) or 0) for keys in self.partitions]


@contextlib.asynccontextmanager
async def queue(
    directory: Path,
    redis_url: str,
    server: StoreServer,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    shards: int,
    consumer: Mapping[str, float] | None = None,
) -> AsyncIterator[Queue]:
    """An empty queue of `shards` partitions; whatever still drains at the end is killed."""
    quick = {"retry_delay": 0.01, "max_retries": 3, "lease_timeout": 1.0, **(consumer or {})}
    settings = make_settings(directory, redis_url, server, database, consumer=quick)
    producer = msgspec.structs.replace(settings.producer, shards=shards)
    settings = msgspec.structs.replace(settings, producer=producer)
    redis = redis_client.connect(settings)
    store = store_client.connect(settings)
    made = Queue(settings, redis, store, monkeypatch)
    try:
        await make_tables_for(settings)
        yield made
    finally:
        for slot in list(made.tasks):
            await made.kill(slot)
        await store.close()
        await redis.aclose()


def real_drain(
    directory: Path, slot: str, redis_url: str, server: StoreServer, database: str, *, shards: int
) -> subprocess.Popen[bytes]:
    """A process of its own, for what only happens to processes."""
    config = directory / "real.toml"
    config.write_text(
        f"[[queues.producers]]\nshards = {shards}\n[[queues.consumers]]\nlease_timeout = 1\n"
        f'[[stores]]\nengine = "embedded"\ndatabase = "{database}"\n'
    )
    environ = {
        **os.environ,
        "DEPLOY_CONFIG": str(config),
        "REDIS_URL": redis_url,
        "CLICKHOUSE_URL": server.url,
        "CLICKHOUSE_PASSWORD": server.token,
        "DRAIN_SLOT": slot,
    }
    command = [sys.executable, "-m", "workers.process", "drain"]
    with (directory / f"{slot}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
