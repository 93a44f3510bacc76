"""An appender as the edge uses it, and a Redis of the test's own, for the tests of appending."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app import redis_client
from app.append import Appender
from app.errors import ApiError, Kind
from app.layout import Expected
from app.ledger import bucket
from app.partition import Freshness
from app.pressure import Pressure
from app.producer import Producer
from app.replay import Replayer
from app.settings import Settings
from app.spool import Spool
from app.spool_slot import take_free
from app.stream import Keys, encode_record
from tests.pipeline_kit import (
    make_keys,
    queued,
    record,
)
from tests.redis_fixture import RedisServer, start_redis

EXPECTED = Expected("events", 1)


class Edge:
    """An appender and a client that looks at what it did. Its spool has no room until it is opened."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self.redis = redis
        self.keys: Keys = make_keys(settings)
        self.directory = settings.spool_path
        self.spool = Spool(lambda: take_free(settings.spool_path), settings.spool.max_bytes)
        self.pressure = Pressure(Freshness(redis, settings.producer.queue, 1), settings.producer.max_backlog)
        self.appender = Appender(
            Producer(redis.connection_pool, self.keys, EXPECTED),
            0,
            spool=self.spool,
            pressure=self.pressure,
            settings=settings,
        )
        self.replayer = Replayer(
            self.spool,
            settings.spool_path,
            lambda _: Producer(redis.connection_pool, self.keys, EXPECTED),
            self.pressure,
        )

    async def append(self, number: int) -> int:
        one = record(b'{"n":%d}' % number)
        await self.appender.append(encode_record(one), bucket(one.project_id, one.time_recorded))
        return number

    async def numbers(self, redis: Redis | None = None) -> list[int]:
        """What the stream holds, in its order."""
        return [int(one.body[5:-1]) for one in await queued(redis or self.redis, self.keys)]

    async def is_replayed(self) -> bool:
        return not self.spool.groups


@contextlib.asynccontextmanager
async def edge(settings: Settings) -> AsyncIterator[Edge]:
    """An edge whose spool cannot be used: events go to Redis or nowhere."""
    redis = redis_client.connect(settings)
    made = Edge(settings, redis)
    try:
        yield made
    finally:
        await made.appender.close()
        await redis.aclose()


@contextlib.asynccontextmanager
async def spooling_edge(settings: Settings, *, replays: bool = True) -> AsyncIterator[Edge]:
    """An edge with its spool; `replays=False`: nobody empties it. Leaving it is a clean stop."""
    redis = redis_client.connect(settings)
    made = Edge(settings, redis)
    assert await made.replayer.open()
    tasks = [asyncio.create_task(made.replayer.run())] if replays else []
    try:
        yield made
    finally:
        await redis_client.stop_tasks(*tasks) if tasks else None
        await made.appender.close()
        await made.replayer.close()
        await redis.aclose()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may stop, kill and fill."""
    server = start_redis(tmp_path)
    yield server
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.process.pid, signal.SIGCONT)
    server.kill()


async def refused(made: Edge, number: int = 1) -> str:
    """The detail of the 503 that an append gets."""
    with pytest.raises(ApiError) as caught:
        await made.append(number)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.retry_after_seconds
    return caught.value.detail
